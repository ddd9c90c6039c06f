"""A named array as it is sent and as it came, and the datatypes that it may have."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from math import prod
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
KINDS: Final = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}  # numpy's kinds of values that a datatype's kind takes
TYPES: Final = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
RANK_MAX: Final = 32


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


def read(name: str, datatype: str, shape: Sequence[Any], raw: bytes | bytearray) -> Tensor:
    """A tensor of an answer, which a stranger made; raises ValueError where it can be none.

    That `raw` is of the size is not looked at here: an answer that is too short is a wrong answer, see `fills`.
    """
    if datatype not in DTYPES:
        raise ValueError(f"{datatype[:40]!r}: not a datatype")
    if len(shape) > RANK_MAX or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise ValueError(f"{str(shape)[:200]}: not a shape")
    return Tensor(name, datatype, tuple(shape), raw)


def fills(tensor: Tensor) -> bool:
    """Whether `raw` is of the size that datatype and shape say; of BYTES the elements' sizes are accounted for."""
    dtype, count, size = DTYPES[tensor.datatype], prod(tensor.shape), len(tensor.raw)
    return size >= 4 * count and bool(count or not size) if dtype.hasobject else size == count * dtype.itemsize


def pack(datatype: str, values: Any) -> bytes:
    """`raw` of numbers or strings that came typed (protobuf contents, JSON data, nested lists too).

    Raises ValueError for a datatype that has no typed form (BF16) or values that are not of it: none is rounded, cut
    or read as another kind.
    """
    if datatype == "BYTES":
        return pack_bytes(_element(value) for value in np.array(values, dtype=object).reshape(-1))
    if datatype not in DTYPES or datatype == "BF16":
        raise ValueError(f"{datatype[:40]!r}: has no typed form")
    dtype = DTYPES[datatype]
    try:
        array = np.asarray(values)
        if array.size and array.dtype.kind not in KINDS[dtype.kind]:
            array = np.asarray(values, object)  # large integers, which numpy would make floats, or no numbers at all
            if not all(type(value) in TYPES[dtype.kind] for value in array.reshape(-1)):
                raise ValueError(f"{datatype}: values that are not of it")
        return _converted(array, dtype).tobytes()
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{datatype}: {error}") from None


def _converted(array: Array, dtype: np.dtype[Any]) -> Array:
    if (
        dtype.kind in "iu"
        and array.size
        and not (np.iinfo(dtype).min <= int(array.min()) and int(array.max()) <= np.iinfo(dtype).max)
    ):
        raise ValueError(f"a value that {dtype} does not hold")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _element(value: Any) -> bytes:
    """bytes(n) would be n zeros."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ValueError(f"BYTES: not a string but {type(value).__name__}")


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """`raw` of BYTES elements."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
