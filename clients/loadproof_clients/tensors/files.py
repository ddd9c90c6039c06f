"""A file of payloads or answers: one entry after the other, each a request's or an answer's tensors.

An entry is the size of its header (4 bytes, little endian), the header (JSON: name, datatype, shape and size in bytes
of each tensor), and the tensors' `raw` in that order. The file has no head and no index: it is read front to back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from loadproof_clients.tensors.tensor import Tensor, Tensors


def write(path: Path, entries: Iterable[Tensors]) -> int:
    """Writes the entries to the file; returns how many."""
    count = 0
    with path.open("wb") as file:
        for tensors in entries:
            header = json.dumps([[t.name, t.datatype, list(t.shape), len(t.raw)] for t in tensors]).encode()
            file.write(len(header).to_bytes(4, "little") + header)
            for tensor in tensors:
                file.write(tensor.raw)
            count += 1
    return count


def read(path: Path) -> list[list[Tensor]]:
    """The file's entries; raises ValueError where it is cut off or not of this kind."""
    try:
        return loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def loads(data: bytes) -> list[list[Tensor]]:
    """The entries of a file's whole content; raises ValueError."""
    try:
        return list(_entries(BytesIO(data)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"not a whole file of tensors: {error}") from None


def _entries(stream: BinaryIO) -> Iterator[list[Tensor]]:
    while size := stream.read(4):
        header = json.loads(_exactly(stream, int.from_bytes(size, "little")))
        yield [
            Tensor(name, datatype, tuple(shape), _exactly(stream, length)) for name, datatype, shape, length in header
        ]


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("it is cut off")
    return data
