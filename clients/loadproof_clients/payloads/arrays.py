"""Reads the user's own inputs from .npy and .npz files, in the datatypes that the model's inputs have."""

from __future__ import annotations

import lzma
import math
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

import numpy as np

from loadproof_clients.payloads.filling import dtype_of
from loadproof_clients.payloads.shapes import Input, Mistake, PayloadError
from loadproof_clients.tensors.tensor import Array

BYTES_MAX: Final = 1 << 30  # of all payloads of a run together, and of the file they come from; gRPC's largest message
NAMES_SHOWN: Final = 20
_HEADERS: Final[Mapping[tuple[int, int], Callable[[IO[bytes]], tuple[Any, ...]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What numpy and zipfile raise for a file that is broken, encrypted, or packed as nobody does.
_UNREADABLE: Final = (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def load(path: Path, inputs: Sequence[Input]) -> dict[str, Array]:
    """The arrays by input name: a .npy for a model of one input, a .npz with an array for each of several.

    Raises PayloadError where the file cannot be read, names differ, or values do not fit the input's datatype.
    """
    try:
        found = _read(path, inputs)
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror or error}") from None
    except _UNREADABLE:  # numpy's messages advise to unpickle a file that may be hostile
        raise _wrong(path, "is not a .npy or .npz file of numbers or strings") from None
    return {described.name: _converted(path, found[described.name], described) for described in inputs}


def _read(path: Path, inputs: Sequence[Input]) -> dict[str, Array]:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device never ends
        raise _wrong(path, "is no regular file")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        if is_zip:
            return _read_zip(path, file, inputs)
        if len(inputs) != 1:
            raise _wrong(path, f"is one array, but the model has {', '.join(map(str, inputs))}: give a .npz")
        return {inputs[0].name: _read_array(path, file, path.stat().st_size)}


def _read_zip(path: Path, file: BinaryIO, inputs: Sequence[Input]) -> dict[str, Array]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        known = {described.name for described in inputs}
        if members.keys() != known:
            names = ", ".join(sorted(members)[:NAMES_SHOWN]) or "nothing"
            wanted = ", ".join(map(str, inputs))
            raise _wrong(path, f"has {names}; the model's inputs are {wanted}: give each its array, by its name")
        _check_size(path, sum(member.file_size for member in members.values()))
        found = {}
        for name, member in members.items():
            with archive.open(member) as part:
                found[name] = _read_array(path, part, member.file_size)
        return found


def _read_array(path: Path, file: IO[bytes], there: int) -> Array:
    """The array of a .npy file of `there` bytes, whose header is believed only as far as that goes."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError("fields have names")
    shape, _, dtype = _HEADERS[version](file)
    if any(size < 0 for size in shape):
        raise ValueError("a negative size")
    declared = math.prod(shape) * dtype.itemsize
    _check_size(path, declared)
    if declared > there:
        raise _wrong(path, f"is cut short: its header says {declared:,} bytes, and there are {there:,}")
    file.seek(0)
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _check_size(path: Path, size: int) -> None:
    if size > BYTES_MAX:
        raise _wrong(path, f"declares {size / 2**20:,.0f} MiB; allowed: {BYTES_MAX >> 20:,}, so save fewer rows")


def _converted(path: Path, array: Array, described: Input) -> Array:
    """The array in the input's datatype: floats may round, integers and strings must stay what they are."""
    dtype = dtype_of(described)
    if described.datatype == "BYTES" and array.dtype.kind in "SU":
        blobs = [text if isinstance(text, bytes) else text.encode() for text in array.reshape(-1).tolist()]
        return np.array(blobs, dtype=object).reshape(array.shape)
    if described.datatype == "BOOL" and array.dtype.kind == "b":
        return array
    if described.datatype not in ("BOOL", "BYTES"):
        is_float = dtype.kind not in "iu"
        if array.dtype.kind in ("iuf" if is_float else "iu"):
            with np.errstate(over="ignore", invalid="ignore"):
                converted = array.astype(dtype)
                same = np.isfinite(converted) == np.isfinite(array) if is_float else converted == array
            if bool(np.all(same)):
                return converted
            raise _wrong(path, f"has values for {described} that {described.datatype} cannot hold")
    raise _wrong(path, f"has {array.dtype} for {described}: save it in the input's own datatype")


def _wrong(path: Path, message: str) -> PayloadError:
    return PayloadError([Mistake("load.payload", f"npy:{path} {message}")])
