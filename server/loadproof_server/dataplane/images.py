"""Decodes JPEG and PNG files that come as BYTES where a model takes an image, and resizes them to the model's input.

As OVMS does (`docs/binary_input_kfs.md`): a tensor of shape [N] has N files, pixels go in OpenCV's order of colours,
BGR, and values are not scaled. Unlike it, the model may be NCHW or NHWC, and a file with other channels than the model
is converted. Resizing is Pillow's bilinear filter, which looks at all pixels where OpenCV's skips some: the same
picture, not the same bits.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from loadproof_server.engine.specs import ANY, Dimension, TensorSpec
from loadproof_server.errors import InvalidRequest
from loadproof_server.tensors.datatypes import BYTES, DATATYPES, Array

MAX_PIXELS: Final = 1 << 26  # of one file: about 200 MB decoded
MAX_PIXELS_REQUEST: Final = 1 << 28  # of all files of a request, which are decoded one after the other
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is a warning; ours is an error

_MODES: Final = {(1, 1): "L", (3, 3): "RGB"}


def takes_images(spec: TensorSpec) -> bool:
    """Whether an input of the model may come as files: four dimensions with 1 or 3 channels, and numbers in them."""
    return (
        spec.datatype not in (BYTES, "BOOL", "BF16")
        and sorted(spec.layout) == ["C", "H", "N", "W"]
        and spec.limits[spec.layout.index("C")] in _MODES
    )


def decode(name: str, spec: TensorSpec, files: Sequence[bytes]) -> Array:
    """The model's input of as many images; raises InvalidRequest, which begins with `name`."""
    if not takes_images(spec):
        raise InvalidRequest(
            f"{name}: datatype must be {spec.datatype}, not BYTES: images need a model of layout NCHW or NHWC "
            "with 1 or 3 channels (see --layout)"
        )
    limits = dict(zip(spec.layout, spec.limits, strict=True))
    if not _fits(len(files), limits["N"]):
        raise InvalidRequest(f"{name}: {len(files)} images, where the model takes {_range(limits['N'])}")
    if not files:
        raise InvalidRequest(f"{name}: no image")
    pixels_left = MAX_PIXELS_REQUEST
    decoded = []
    for number, file in enumerate(files):
        image = _open(f"{name}: image {number}", file, pixels_left)
        pixels_left -= image.width * image.height
        decoded.append(_pixels(f"{name}: image {number}", image, limits))
        if decoded[-1].shape != decoded[0].shape:
            raise InvalidRequest(f"{name}: image {number} has another size than image 0, and the model's is not fixed")
    height, width, channels = decoded[0].shape
    sizes = {"N": len(files), "H": height, "W": width, "C": channels}
    batch = np.empty([sizes[letter] for letter in spec.layout], DATATYPES[spec.datatype].dtype)
    last = batch.transpose([spec.layout.index(letter) for letter in "NHWC"])
    for number, pixels in enumerate(decoded):
        last[number] = pixels[..., ::-1]
    return batch


def _open(name: str, file: bytes, pixels_left: int) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(file), formats=("JPEG", "PNG"))
    except Exception:  # a broken file breaks Pillow in many ways
        raise InvalidRequest(f"{name} is neither JPEG nor PNG") from None
    if image.width * image.height > min(MAX_PIXELS, pixels_left):
        raise InvalidRequest(
            f"{name}: {image.width}x{image.height} pixels are too many: {MAX_PIXELS} an image and "
            f"{MAX_PIXELS_REQUEST} a request are decoded"
        )
    return image


def _pixels(name: str, image: Image.Image, limits: dict[str, Dimension]) -> Array:
    """Height, width and channels, RGB, as bytes."""
    if image.mode.startswith(("I", "F")):
        raise InvalidRequest(f"{name}: has more than 8 bits a channel, which is not supported")
    size = (_nearest(image.width, limits["W"]), _nearest(image.height, limits["H"]))
    try:
        image = image.convert(_MODES[limits["C"]])
    except Exception:  # the same: files end early or are inconsistent
        raise InvalidRequest(f"{name} is broken") from None
    pixels = np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR))
    return pixels.reshape(*pixels.shape[:2], -1)


def _fits(size: int, limits: Dimension) -> bool:
    return limits[0] <= size and (limits[1] == ANY or size <= limits[1])


def _nearest(size: int, limits: Dimension) -> int:
    return max(limits[0], size if limits[1] == ANY else min(size, limits[1]))


def _range(limits: Dimension) -> str:
    low, high = limits
    return str(low) if low == high else f"at least {low}" if high == ANY else f"{low} to {high}"
