"""Reads the user's own inputs from .npy and .npz files, in the datatypes that the model's inputs have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loadproof_clients.payloads.filling import dtype_of
from loadproof_clients.payloads.shapes import Input, Mistake, PayloadError
from loadproof_clients.tensors.tensor import Array


def load(path: Path, inputs: Sequence[Input]) -> dict[str, Array]:
    """The arrays by input name: a .npy for a model of one input, a .npz with an array for each of several.

    Raises PayloadError where the file cannot be read, names differ, or values do not fit the input's datatype.
    """
    found = _read(path, inputs)
    known = {described.name for described in inputs}
    if found.keys() != known:
        names = f"has {', '.join(sorted(found)) or 'nothing'}; the model's inputs are {', '.join(map(str, inputs))}"
        raise _wrong(path, f"{names}: give each its array, by its name")
    return {described.name: _converted(path, found[described.name], described) for described in inputs}


def _read(path: Path, inputs: Sequence[Input]) -> dict[str, Array]:
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            if len(inputs) != 1:
                raise _wrong(path, f"is one array, but the model has {', '.join(map(str, inputs))}: give a .npz")
            return {inputs[0].name: opened}
        with opened:
            return dict(opened)
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError):  # numpy's messages advise to unpickle a file that may be hostile
        raise _wrong(path, "is not a .npy or .npz file of numbers or strings") from None


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
