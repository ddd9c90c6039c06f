"""The tensor codec: KServe v2 datatypes to and from raw bytes, typed values and JSON, without OpenVINO.

A tensor is a numpy array in C order. BYTES elements are `bytes` in an object array; raw, each is
preceded by its length as a 4-byte little-endian integer. Raw numbers are little-endian. Every error is an
InvalidRequest whose message begins with the `name` that was passed in.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from loadproof_server.errors import InvalidRequest
from loadproof_server.tensors.datatypes import BYTES, DATATYPES, Array, Datatype, raw_only

Buffer = bytes | bytearray | memoryview
MAX_STRINGS: Final = 1 << 20  # elements of one tensor: each becomes an object of its own
_JSON_TYPE_NAMES: Final = {
    bool: "booleans",
    int: "integers",
    float: "decimals",
    str: "strings",
    list: "lists of unequal lengths or too deep",
    dict: "objects",
    type(None): "null",
}


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: Buffer) -> Array:
    """The array of `shape` over `raw`: a read-only view (BYTES: decoded); it copies only what is not aligned."""
    if datatype == BYTES:
        _refuse_too_many_strings(name, math.prod(shape))
        elements = _split_bytes(name, raw, math.prod(shape))
        if len(elements) != math.prod(shape):
            raise InvalidRequest(f"{name}: {len(elements)} BYTES elements for shape {list(shape)}")
        return _shaped(name, _object_array(elements), shape)
    dtype = DATATYPES[datatype].dtype
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(f"{name}: {len(raw)} bytes for {datatype} of shape {list(shape)}, which takes {expected}")
    array = _shaped(name, np.frombuffer(raw, dtype) if expected else np.empty(0, dtype), shape)
    if datatype == "BOOL" and expected and array.view(np.uint8).max() > 1:
        raise InvalidRequest(f"{name}: a BOOL byte must be 0 or 1")
    return array if array.flags.aligned else array.copy()


def to_raw(array: Array) -> bytes:
    """The raw form of the array, in C order; an object or bytes-string array is BYTES."""
    if array.dtype.kind in "OS":
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel().tolist())
    return array.tobytes()


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Array:
    """The array of `shape` from flat values, as gRPC's typed contents hold them: numbers, booleans or `bytes`."""
    if len(values) != math.prod(shape):
        raise InvalidRequest(f"{name}: {len(values)} values for {datatype} of shape {list(shape)}")
    if datatype == BYTES:
        return _shaped(name, _object_array(list(values)), shape)
    if raw_only(datatype):
        raise InvalidRequest(f"{name}: {datatype} has no typed contents; send it raw")
    try:
        return _shaped(name, np.array(values, DATATYPES[datatype].dtype), shape)
    except OverflowError:
        raise InvalidRequest(f"{name}: a value is outside the range of {datatype}") from None


def from_array(name: str, datatype: str, shape: Sequence[int], array: Array) -> Array:
    """The array itself, which another process has read."""
    return array


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """The array of `shape` from JSON: a flat list in row-major order, or lists nested as the shape says."""
    if not isinstance(data, list):
        raise InvalidRequest(f"{name}: data must be a list")
    if raw_only(datatype):
        raise InvalidRequest(f"{name}: {datatype} has no JSON form; send it binary")
    array = _json_array(name, DATATYPES[datatype], data)
    if array.shape not in ((math.prod(shape),), tuple(shape)):
        raise InvalidRequest(f"{name}: data of shape {list(array.shape)} does not fit shape {list(shape)}")
    return _shaped(name, array, shape)


def to_json(name: str, datatype: str, raw: Buffer) -> list[Any]:
    """The flat list, in row-major order, of a raw tensor; a BYTES element must be UTF-8."""
    if raw_only(datatype):
        raise InvalidRequest(f"{name}: {datatype} has no JSON form; ask for it with binary_data")
    if datatype != BYTES:
        values: list[Any] = np.frombuffer(raw, DATATYPES[datatype].dtype).tolist()
        return values
    try:
        return [item.decode() for item in _split_bytes(name, raw, len(raw))]
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name}: an element is not UTF-8; ask for it with binary_data") from None


def _shaped(name: str, array: Array, shape: Sequence[int]) -> Array:
    """The array under `shape`, of as many elements; it may have too many dimensions or, beside a 0, too large ones."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name}: shape has more or larger dimensions than a tensor can have") from None


def _refuse_too_many_strings(name: str, number: int) -> None:
    if number > MAX_STRINGS:
        raise InvalidRequest(f"{name}: {number} BYTES elements are too many; {MAX_STRINGS} are read")


def _split_bytes(name: str, raw: Buffer, number: int) -> list[bytes]:
    """The elements, of which there should be `number`; stops after one more."""
    view = memoryview(raw)
    elements: list[bytes] = []
    position = 0
    while position < len(view) and len(elements) <= number:
        start = position + 4
        if start > len(view):
            raise InvalidRequest(f"{name}: {len(view) - position} bytes at the end where a 4-byte length was expected")
        position = start + int(struct.unpack_from("<I", view, position)[0])
        if position > len(view):
            raise InvalidRequest(f"{name}: an element of {position - start} bytes runs past the end of the data")
        elements.append(bytes(view[start:position]))
    return elements


def _object_array(elements: Sequence[Any]) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def _json_array(name: str, datatype: Datatype, data: list[Any]) -> Array:
    """The array of JSON values; nothing is rounded, parsed or wrapped, except decimals to the nearest float."""
    elements = np.array(data, object)  # lists of unequal lengths stay elements, and so are refused below
    found = {type(element) for element in elements.ravel().tolist()}
    if not found <= datatype.json_types:
        wrong = ", ".join(sorted(_JSON_TYPE_NAMES[kind] for kind in found - datatype.json_types))
        raise InvalidRequest(f"{name}: data for {datatype.name} holds {wrong}")
    if datatype.name == BYTES:
        try:
            return _object_array([element.encode() for element in elements.ravel()]).reshape(elements.shape)
        except UnicodeEncodeError:
            raise InvalidRequest(f"{name}: an element has half a surrogate pair, which UTF-8 has not") from None
    try:
        with np.errstate(over="raise"):
            return np.array(data, datatype.dtype)
    except (OverflowError, FloatingPointError):
        raise InvalidRequest(f"{name}: a value is outside the range of {datatype.name}") from None
