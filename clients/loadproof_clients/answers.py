"""Decides whether an answer is right: an inference response's tensors against the reference answer's."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

FLOATS: Final = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
EXACT: Final = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
}


class Tensor(NamedTuple):
    """One output as it came; `raw` is KServe's raw content: little endian, row major, BYTES with 4-byte lengths."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | bytearray


def agree(expected: Sequence[Tensor], got: Sequence[Tensor], *, rtol: float, atol: float) -> bool:
    """True where both have the same outputs (in any order), each of the same datatype, shape and values.

    Bytes are compared first; floats that differ may lie within `atol + rtol * |expected|` of the expected value
    (numpy.isclose), a NaN equals a NaN at the same place. Integers, BOOL and BYTES must be equal. With rtol = atol = 0
    the bytes alone decide.
    """
    if len(expected) != len(got):
        return False
    if all(a == b for a, b in zip(expected, got, strict=True)):
        return True
    by_name = {tensor.name: tensor for tensor in got}
    return all(
        tensor.name in by_name and _tensors_agree(tensor, by_name[tensor.name], rtol, atol) for tensor in expected
    )


def _tensors_agree(expected: Tensor, got: Tensor, rtol: float, atol: float) -> bool:
    if expected.datatype != got.datatype or expected.shape != got.shape or len(expected.raw) != len(got.raw):
        return False
    if expected.raw == got.raw:
        return True
    if expected.datatype in EXACT or expected.datatype == "BYTES" or (rtol == 0 and atol == 0):
        return False
    a, b = _floats(expected), _floats(got)
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True).all())


def _floats(tensor: Tensor) -> npt.NDArray[np.float64]:
    if tensor.datatype == "BF16":  # a BF16 number is the upper half of the FP32 number of the same value
        upper = np.frombuffer(tensor.raw, "<u2").astype(np.uint32) << 16
        return upper.view(np.float32).astype(np.float64)
    return np.frombuffer(tensor.raw, FLOATS[tensor.datatype]).astype(np.float64)


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """Raw content of numbers or strings that came typed (protobuf contents, JSON data, nested lists too).

    Raises ValueError for a datatype that has no typed form (FP16 and BF16 in protobuf, BF16 in JSON) or values that
    are not of it.
    """
    if datatype == "BYTES":
        flat = np.array(values, dtype=object).reshape(-1)
        blobs = [v.encode() if isinstance(v, str) else bytes(v) for v in flat]
        return b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs)
    dtype = FLOATS.get(datatype) or EXACT.get(datatype)
    if dtype is None:
        raise ValueError(f"{datatype}: has no typed form")
    try:
        return np.asarray(values, dtype=dtype).tobytes()
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{datatype}: {error}") from None
