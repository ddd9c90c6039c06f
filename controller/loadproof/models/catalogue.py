"""The models that can be had by name: where each comes from, its licence, and the inputs that suit it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Wheel:
    """A model file inside a wheel of the Python package index; `sha256` is the model file's.

    `platform` picks one wheel where a package has one per platform: the model inside is the same in all of them.
    """

    package: str
    version: str
    file: str
    sha256: str
    platform: str | None = None

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue. `shapes` holds batch-1 shapes of dynamic inputs, `ranges` each input's [low, high]."""

    description: str
    licence: str
    wheel: Wheel | None  # None: the model is built here
    payload: str
    shapes: dict[str, list[int]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return str(self.wheel) if self.wheel else "built here, seeded weights"


def _rapidocr(file: str, sha256: str) -> Wheel:
    return Wheel("rapidocr", "3.10.0", f"rapidocr/models/{file}", sha256)


# Shapes and ranges are the packages' own: rapidocr/config.yaml (mean and std 0.5, so pixels lie in [-1, 1]; cls 48x192,
# rec 48x320) and magika's config.min.json (1024 first and 1024 last bytes of a file; 256 is padding).
CATALOGUE: Final[dict[str, Entry]] = {
    "ocr-cls": Entry(
        "is a line of text upside down? PP-OCR mobile v2.0, 0.6 MB, 48x192",
        "Apache-2.0",
        _rapidocr(
            "ch_ppocr_mobile_v2.0_cls_mobile.onnx", "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
        ),
        payload="images",
        shapes={"x": [1, 3, 48, 192]},
        ranges={"x": (-1, 1)},
    ),
    "ocr-det": Entry(
        "where on the page is text? PP-OCRv6 small, 10 MB, 480x480",
        "Apache-2.0",
        _rapidocr("PP-OCRv6_det_small.onnx", "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"),
        payload="images",
        shapes={"x": [1, 3, 480, 480]},
        ranges={"x": (-1, 1)},
    ),
    "ocr-rec": Entry(
        "what does the line of text say? PP-OCRv6 small, 21 MB, 48x320",
        "Apache-2.0",
        _rapidocr("PP-OCRv6_rec_small.onnx", "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"),
        payload="images",
        shapes={"x": [1, 3, 48, 320]},
        ranges={"x": (-1, 1)},
    ),
    "magika": Entry(
        "what type of file do these bytes come from? magika standard v3.3, 3 MB, INT32 input",
        "Apache-2.0",
        Wheel(
            "magika",
            "1.0.3",
            "magika/models/standard_v3_3/model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            platform="manylinux_2_28_x86_64",
        ),
        payload="random",
        shapes={"bytes": [1, 2048]},
        ranges={"bytes": (0, 255)},
    ),
    "resnet50": Entry(
        "ResNet-50 v1, FP32, 25.6 M parameters, 224x224: the classic's work without its knowledge; needs no download",
        "Apache-2.0",
        None,
        payload="random",
        shapes={"input": [1, 3, 224, 224]},
        ranges={"input": (-2, 2)},
    ),
}
