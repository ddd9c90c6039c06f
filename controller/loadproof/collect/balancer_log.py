"""Reads HAProxy's raw request log, as the collector wrote it, into the columns of balancer.parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from loadproof.rundir import BALANCER

# In the order of `log-format` in haproxy/haproxy.cfg, where their meaning stands; in the file the id comes first.
_FIELDS = {
    "accepted_us": pa.int64(),
    "headers_us": pa.int64(),
    "end_us": pa.int64(),
    "status": pa.int16(),
    "termination": pa.string(),
    "retries": pa.int16(),
    "queue_ms": pa.int32(),
    "server": pa.string(),
    "id": pa.string(),
}
_ALWAYS = ("end_us", "status", "retries", "queue_ms")

PIECE_BYTES = 64 << 20
_LINE = re.compile(rb"(?:\d{1,18}|-) (?:\d{1,18}|-) \d{1,18} -?\d{1,3} [!-~]{2} \d{1,4} -?\d{1,9} [!-~]+ [!-~]+$")
_DROPPED = re.compile(r"(\d{1,18}) events? dropped$")  # what the ring says of itself when it was full


@dataclass(frozen=True)
class Tally:
    """What became of a log's lines: `rows` are in the table."""

    rows: int = 0
    unread: int = 0  # requests that HAProxy refused or lost before it had read what they were: they have no id
    dropped: int = 0  # requests whose line HAProxy's ring had no room for, by its own count
    bad: int = 0  # lines that are none of these

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.rows + other.rows, self.unread + other.unread, self.dropped + other.dropped, self.bad + other.bad
        )


def parse(lines: bytes) -> tuple[pa.Table, Tally]:
    """Whole log lines as a table of rundir.BALANCER, in their order, and what became of them; nothing in them raises.

    `headers_us` is null where the server gave no answer; `id` is empty where the request carried none.
    """
    try:
        table, odd = _read(lines)
    except ValueError:  # a field or a byte is not what it must be: slower, line by line
        split = lines.splitlines()
        table, odd = _read(b"\n".join(line for line in split if _LINE.match(line)))
        odd += [line.decode(errors="replace") for line in split if line and not _LINE.match(line)]
    read = table.filter(table["accepted_us"].is_valid())
    dropped = [int(match[1]) for line in odd if (match := _DROPPED.match(line))]
    return _arrange(read), Tally(read.num_rows, table.num_rows - read.num_rows, sum(dropped), len(odd) - len(dropped))


def pieces(path: Path) -> Iterator[tuple[pa.Table, Tally]]:
    """A log file, `parse`d in pieces of bounded size. A last line without an end was cut and counts as bad."""
    rest = b""
    with path.open("rb") as file:
        while data := file.read(PIECE_BYTES):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                yield parse(whole)
    if rest:
        yield BALANCER.empty_table(), Tally(bad=1)


def read(log: Path) -> tuple[pa.Table, Tally]:
    """The whole log: a table of rundir.BALANCER, and what became of its lines. OSError: there is no such file."""
    tables, tallies = zip(*[(BALANCER.empty_table(), Tally()), *pieces(log)], strict=True)
    return pa.concat_tables(tables).unify_dictionaries(), sum(tallies, Tally())


def _read(lines: bytes) -> tuple[pa.Table, list[str]]:
    """The lines that have all fields, and the others. ValueError: a field or a byte is not what it must be."""
    odd: list[str] = []

    def set_aside(row: csv.InvalidRow) -> str:
        odd.append(row.text)
        return "skip"

    lines.decode("ascii")  # set_aside could not raise
    if not lines.strip():
        return pa.schema(list(_FIELDS.items())).empty_table(), odd
    table = csv.read_csv(
        BytesIO(lines),
        csv.ReadOptions(column_names=list(_FIELDS)),
        csv.ParseOptions(delimiter=" ", quote_char=False, invalid_row_handler=set_aside),
        csv.ConvertOptions(column_types=_FIELDS, null_values=["-"], strings_can_be_null=False),
    )
    if any(table[name].null_count for name in _ALWAYS):
        raise ValueError("a number is missing")
    return table, odd


def _arrange(table: pa.Table) -> pa.Table:
    identity = pc.if_else(pc.equal(table["id"], "-"), "", table["id"])
    return table.set_column(table.schema.get_field_index("id"), "id", identity).select(BALANCER.names).cast(BALANCER)
