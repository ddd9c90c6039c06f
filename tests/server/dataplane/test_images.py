from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loadproof_server.dataplane import images
from loadproof_server.engine.specs import Dimension, TensorSpec
from loadproof_server.errors import InvalidRequest

RGB = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)


def file(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()


def spec(*sizes: int | Dimension, layout: str = "NHWC", datatype: str = "UINT8") -> TensorSpec:
    limits = tuple((size, size) if isinstance(size, int) else size for size in sizes)
    shape = tuple(low if low == high else -1 for low, high in limits)
    return TensorSpec("x", datatype, shape, limits, layout=layout)


ANY = (0, -1)


def decode(wanted: TensorSpec, *files: bytes) -> Any:
    return images.decode("x", wanted, files)


def test_pixels_are_bgr_as_opencv_has_them() -> None:
    found = decode(spec(1, 6, 9, 3), file(RGB))
    assert found.tolist() == [RGB[..., ::-1].tolist()]


def test_a_model_of_planes_gets_planes_in_its_own_type() -> None:
    found = decode(spec(2, 3, 6, 9, layout="NCHW", datatype="FP32"), file(RGB), file(RGB[::-1]))
    assert found.dtype == np.float32 and found.flags.c_contiguous
    assert found[1].tolist() == RGB[::-1, :, ::-1].transpose(2, 0, 1).tolist()


def test_images_are_resized_to_the_models_size_and_jpeg_is_nearly_right() -> None:
    smooth = np.linspace(0, 255, 60 * 90 * 3).reshape(60, 90, 3).astype(np.uint8)
    found = decode(spec(1, 30, 45, 3), file(smooth, "JPEG", quality=95))
    expected = smooth.reshape(30, 2, 45, 2, 3).mean(axis=(1, 3))[..., ::-1]
    assert np.abs(found[0] - expected).mean() < 4


@pytest.mark.parametrize(
    ("limits", "size"),
    [((ANY, ANY), (6, 9)), (((8, 20), (1, 5)), (8, 5)), (((1, 8), ANY), (6, 9))],
)
def test_a_size_that_is_not_fixed_is_kept_as_far_as_the_model_takes_it(
    limits: tuple[Dimension, Dimension], size: tuple[int, int]
) -> None:
    assert decode(spec(ANY, *limits, 3), file(RGB)).shape == (1, *size, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_kinds_of_pixels_are_converted(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    sink = io.BytesIO()
    image.save(sink, "JPEG" if mode == "CMYK" else "PNG")
    found = decode(spec(1, 6, 9, 3), sink.getvalue())
    if mode != "CMYK":
        assert found[0, ..., ::-1].tolist() == np.asarray(image.convert("RGB")).tolist()
    assert decode(spec(1, 6, 9, 1), sink.getvalue()).shape == (1, 6, 9, 1)


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels: a kilobyte for a gigapixel, as its data ends early."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize(
    ("wanted", "files", "message"),
    [
        (spec(1, 6, 9, 3), [b"GIF89a"], "x: image 0 is neither JPEG nor PNG"),
        (spec(1, 6, 9, 3), [b""], "x: image 0 is neither JPEG nor PNG"),
        (spec(1, 6, 9, 3), [file(RGB)[:-40]], "x: image 0 is broken"),
        (spec(1, 6, 9, 3), [file(RGB, "JPEG")[:200]], "x: image 0 is "),
        (spec(1, 6, 9, 3), [], "x: 0 images, where the model takes 1"),
        (spec(1, 6, 9, 3), [file(RGB)] * 2, "x: 2 images, where the model takes 1"),
        (spec((2, 4), 6, 9, 3), [file(RGB)], "x: 1 images, where the model takes 2 to 4"),
        (spec(ANY, 6, 9, 3), [], "x: no image"),
        (spec(ANY, ANY, 9, 3), [file(RGB), file(RGB[:4])], "x: image 1 has another size than image 0"),
        (spec(1, 6, 9, 3), [file(RGB[..., 0].astype(np.uint16) * 200)], "x: image 0: has more than 8 bits"),
        (spec(1, 6, 9, 3), [bomb(20_000)], "x: image 0: 20000x20000 pixels are too many"),
        (spec(ANY, 6, 9, 3), [bomb(8_000)] * 2, "x: image 0 is broken"),
        (spec(1, 6, 9, 4), [file(RGB)], "x: datatype must be UINT8, not BYTES: images need a model of layout"),
        (spec(1, 6, 9, 3, layout=""), [file(RGB)], "x: datatype must be UINT8, not BYTES"),
        (spec(1, 6, 9, 3, datatype="BF16"), [file(RGB)], "x: datatype must be BF16, not BYTES"),
    ],
)
def test_what_is_no_such_image_is_refused(wanted: TensorSpec, files: Sequence[bytes], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(wanted, *files)
    assert str(caught.value).startswith(message)


def test_many_images_are_too_many_pixels_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS_REQUEST", 2 * 54)
    assert len(decode(spec(ANY, 6, 9, 3), *[file(RGB)] * 2)) == 2
    with pytest.raises(InvalidRequest, match="x: image 2: 9x6 pixels are too many"):
        decode(spec(ANY, 6, 9, 3), *[file(RGB)] * 3)
