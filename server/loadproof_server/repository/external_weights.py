"""Finds the files in which an ONNX model keeps its weights, without an ONNX library.

A tensor outside the model's file has an entry `location` with the file's path, relative to the model's directory (ONNX,
docs/ExternalData.md). In protobuf's encoding that is the same few bytes wherever in the graph the tensor is, so they
are looked for rather than parsed; a string that looks the same by chance names a file too many at worst.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_ENTRY: Final = b"\x0a\x08location\x12"  # field 1 of StringStringEntryProto with its value, and the tag of field 2
_BLOCK_BYTES: Final = 1 << 20
_PATH_BYTES: Final = 4096  # the longest path that is looked for


def of(model: Path) -> tuple[Path, ...]:
    """The files that the model names, whether they are there or not; none for a model that is not ONNX.

    Raises OSError where the model cannot be read.
    """
    if model.suffix != ".onnx":
        return ()
    status = model.stat()
    names = _names(model, status.st_size, status.st_mtime_ns, status.st_ino)
    return tuple(sorted(model.parent / name for name in names if not name.startswith("/")))


@functools.lru_cache(maxsize=64)
def _names(model: Path, *_: int) -> frozenset[str]:
    """The names, read once as long as the file stays the same."""
    with model.open("rb") as file:
        return frozenset(_entries(file))


def _entries(file: BinaryIO) -> Iterator[str]:
    """Reads block by block: a large model must not keep Python's lock for long."""
    held = b""
    while block := file.read(_BLOCK_BYTES):
        held += block
        yield from _names_in(held, len(held) - _PATH_BYTES)
        held = held[-_PATH_BYTES:]
    yield from _names_in(held, len(held))


def _names_in(text: bytes, end: int) -> Iterator[str]:
    """Of the entries that begin before `end`."""
    start = text.find(_ENTRY)
    while 0 <= start < end:
        position = start + len(_ENTRY)
        size = text[position] if position < len(text) else 0
        if size > 127:
            position += 1
            size = size - 128 + 128 * text[position] if position < len(text) else 0
        name = text[position + 1 : position + 1 + size]
        if name and b"\0" not in name:
            yield name.decode(errors="surrogateescape")
        start = text.find(_ENTRY, start + 1)
