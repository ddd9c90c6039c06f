"""Writes small TensorFlow Lite files: a FlatBuffer by hand, because no writer is among the test's packages.

Source: tensorflow/lite/schema/schema.fbs and FlatBuffers' internals.md. A table is {field: value}; a value is a scalar
as (struct format, number), a string, a list of numbers (as int32), of strings or of tables, or a table.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

RELU: Final = 19
_FLOAT32: Final = 0
Table = dict[int, Any]


def relu_model(path: Path, names: Sequence[str], shape: Sequence[int] = (1, 4), version: str = "1") -> Path:
    """A chain of Relus through tensors of these names: the first is the input, the last the output."""
    tensors: list[Any] = [{0: list(shape), 1: ("b", _FLOAT32), 2: ("I", 0), 3: name} for name in names]
    operators: list[Any] = [{0: ("I", 0), 1: [number], 2: [number + 1]} for number in range(len(names) - 1)]
    graph = {0: tensors, 1: [0], 2: [len(names) - 1], 3: operators, 4: "main"}
    code = {0: ("b", RELU), 2: ("i", 1), 3: ("i", RELU)}
    directory = path / version
    directory.mkdir(parents=True)
    (directory / "model.tflite").write_bytes(_file({0: ("I", 3), 1: [code], 2: [graph], 3: "made by a test", 4: [{}]}))
    return path


def _file(root: Table) -> bytes:
    made = bytearray(struct.pack("<I4s", 0, b"TFL3"))
    struct.pack_into("<I", made, 0, _add_table(made, root))
    return bytes(made)


def _align(made: bytearray) -> int:
    made += bytes(-len(made) % 4)
    return len(made)


def _add_table(made: bytearray, table: Table) -> int:
    """Appends the table's index of fields, the table with four bytes for each field, and what these point to."""
    fields = max(table, default=-1) + 1
    index = _align(made)
    places = {field: 4 + 4 * number for number, field in enumerate(sorted(table))}
    made += struct.pack(f"<HH{fields}H", 4 + 2 * fields, 4 + 4 * len(table), *(places.get(f, 0) for f in range(fields)))
    start = _align(made)
    made += struct.pack("<i", start - index) + bytes(4 * len(table))
    for field, value in table.items():
        place = start + places[field]
        if isinstance(value, tuple):
            struct.pack_into(f"<{value[0]}", made, place, value[1])
        else:
            struct.pack_into("<I", made, place, _add(made, value) - place)
    return start


def _add(made: bytearray, value: Any) -> int:
    if isinstance(value, dict):
        return _add_table(made, value)
    start = _align(made)
    if isinstance(value, str):
        made += struct.pack("<I", len(value)) + value.encode() + b"\0"
    elif value and not isinstance(value[0], int):
        made += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for number, one in enumerate(value):
            place = start + 4 + 4 * number
            struct.pack_into("<I", made, place, _add(made, one) - place)
    else:
        made += struct.pack(f"<I{len(value)}i", len(value), *value)
    return start
