"""Fills tensors: seeded random values of every datatype, or pictures, within an input's range."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from loadproof_clients.payloads.shapes import Input, Mistake, PayloadError, Shape, unknown_names
from loadproof_clients.tensors.tensor import DTYPES, FLOATS, Array

Range = tuple[float, float]

STRING_LENGTH: Final = 16
_LETTERS: Final = np.frombuffer((string.ascii_letters + string.digits).encode(), "S1")


class Layout(NamedTuple):
    """Where a tensor of pictures keeps its sizes."""

    height: int
    width: int
    channels: int
    channels_first: bool


def dtype_of(described: Input) -> np.dtype[Any]:
    """The input's numpy type (BF16: ml_dtypes.bfloat16; BYTES: object); PayloadError for an unknown one."""
    if described.datatype not in DTYPES:
        raise PayloadError([Mistake("server.model", f"{described}: there is no datatype {described.datatype}")])
    return DTYPES[described.datatype]


def item_bytes(described: Input) -> int:
    """Bytes that one element takes on the wire."""
    return 4 + STRING_LENGTH if described.datatype == "BYTES" else dtype_of(described).itemsize


def range_mistakes(inputs: Sequence[Input], ranges: Mapping[str, Range]) -> list[Mistake]:
    """What is wrong with `load.ranges`: names, datatypes that have none, limits that the datatype cannot hold."""
    mistakes = list(unknown_names("load.ranges", ranges, inputs))
    for described in inputs:
        if described.name not in ranges:
            continue
        low, high = ranges[described.name]
        allowed = _allowed(described)
        if allowed is None:
            mistakes.append(Mistake("load.ranges", f"{described} takes no range: leave it out"))
        elif not (allowed[0] <= low <= high <= allowed[1]) or (described.datatype not in FLOATS and low % 1 + high % 1):
            kind = "numbers" if described.datatype in FLOATS else "whole numbers"
            limits = f"{kind} from {allowed[0]} to {allowed[1]}"
            mistakes.append(Mistake("load.ranges", f"found {described.name} = [{low}, {high}]; allowed: {limits}"))
    return mistakes


def random_tensor(described: Input, shape: Shape, limits: Range | None, random: np.random.Generator) -> Array:
    """Uniform values: floats in [0, 1], 8-bit integers over their whole range, others in [0, 127], ends included."""
    dtype = dtype_of(described)
    if described.datatype == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    if described.datatype == "BYTES":
        letters = random.choice(_LETTERS, (math.prod(shape), STRING_LENGTH))
        return np.array([row.tobytes() for row in letters], dtype=object).reshape(shape)
    if described.datatype in FLOATS:
        low, high = limits or (0, 1)
        share = random.random(shape, dtype=np.float64 if dtype.itemsize == 8 else np.float32)
        return np.clip(low * (1 - share) + high * share, low, high).astype(dtype)
    info = np.iinfo(dtype)
    low, high = limits or ((info.min, info.max) if dtype.itemsize == 1 else (0, 127))
    return random.integers(int(low), int(high), shape, dtype=dtype, endpoint=True)


def image_layout(described: Input, shape: Shape) -> Layout | None:
    """[batch, 1 or 3, height, width] or [batch, height, width, 1 or 3] of numbers; None for any other shape."""
    if len(shape) != 4 or _allowed(described) is None:
        return None
    if shape[1] in (1, 3):
        return Layout(shape[2], shape[3], shape[1], channels_first=True)
    return Layout(shape[1], shape[2], shape[3], channels_first=False) if shape[3] in (1, 3) else None


def pixel_tensor(described: Input, pixels: npt.NDArray[np.uint8], limits: Range | None, layout: Layout) -> Array:
    """Pictures [batch, height, width, channels] as the input's tensor: 0..255 mapped linearly to the input's range.

    Without a range: [0, 1] for floats, the datatype's 256 values for 8-bit integers, [0, 255] for wider ones.
    """
    dtype = dtype_of(described)
    ordered: Array = pixels.transpose(0, 3, 1, 2) if layout.channels_first else pixels
    if described.datatype in FLOATS:
        low, high = limits or (0, 1)
    else:
        low, high = limits or ((-128, 127) if described.datatype == "INT8" else (0, 255))
    wide: Any = np.float32 if described.datatype in ("FP16", "BF16", "FP32") else np.float64
    values = ordered.astype(wide) * wide((high - low) / 255) + wide(low)
    filled: Array = (values if described.datatype in FLOATS else np.rint(values)).astype(dtype, order="C")
    return filled


def _allowed(described: Input) -> Range | None:
    """The least and the greatest number of the datatype; None for those that hold no numbers."""
    if described.datatype in ("BOOL", "BYTES"):
        return None
    dtype = dtype_of(described)
    if described.datatype in FLOATS:
        info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        return float(info.min), float(info.max)
    return np.iinfo(dtype).min, np.iinfo(dtype).max
