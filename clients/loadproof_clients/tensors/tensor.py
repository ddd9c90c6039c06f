"""A named array as it is sent and as it came, and the datatypes that it may have."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# By the names that KServe v2 gave them; all other APIs' names are translated where they are read.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),  # each element a bytes
}
FLOATS: Final = ("FP16", "BF16", "FP32", "FP64")


class Tensor(NamedTuple):
    """`raw` is little endian and row major; of BYTES each element is its size, 4 bytes, and then itself."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | bytearray


Tensors = Sequence[Tensor]  # a request's inputs, or an answer's outputs


def from_array(name: str, datatype: str, array: Array) -> Tensor:
    """The array as a Tensor; it has the datatype's dtype (DTYPES) already."""
    raw = pack_bytes(array.reshape(-1)) if datatype == "BYTES" else array.tobytes()
    return Tensor(name, datatype, array.shape, raw)


def to_array(tensor: Tensor) -> Array:
    """The values in their shape (BYTES: dtype object); raises ValueError where `raw` is not of that size."""
    if tensor.datatype != "BYTES":
        return np.frombuffer(tensor.raw, DTYPES[tensor.datatype]).reshape(tensor.shape)
    elements, at = [], 0
    while at < len(tensor.raw):
        begin = at + 4
        at = begin + int.from_bytes(tensor.raw[at:begin], "little")
        elements.append(bytes(tensor.raw[begin:at]))
    return np.array(elements, object).reshape(tensor.shape)


def pack(datatype: str, values: Any) -> bytes:
    """`raw` of numbers or strings that came typed (protobuf contents, JSON data, nested lists too).

    Raises ValueError for a datatype that has no typed form (BF16) or values that are not of it.
    """
    if datatype == "BYTES":
        flat = np.array(values, dtype=object).reshape(-1)
        return pack_bytes(v.encode() if isinstance(v, str) else bytes(v) for v in flat)
    if datatype not in DTYPES or datatype == "BF16":
        raise ValueError(f"{datatype}: has no typed form")
    try:
        return np.asarray(values, dtype=DTYPES[datatype]).tobytes()
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{datatype}: {error}") from None


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """`raw` of BYTES elements."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
