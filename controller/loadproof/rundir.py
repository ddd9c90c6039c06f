"""The run directory: the one place that knows its file names and schemas; writers are atomic, readers accept gaps.

Schema 1; 0.2.0 added `end` to run.json: whether the run was measured to its end, and why it ended. A table that was
never written (a run that died early) reads as an empty one; a broken one is an error.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loadproof import facts as forms
from loadproof.errors import LoadproofError
from loadproof_clients.records import PHASES, RECORD, UNKNOWN_NS, status_name

SCHEMA: Final = 1
Columns: TypeAlias = "pa.Table | Mapping[str, Any]"

_NAME: Final = pa.dictionary(pa.int16(), pa.string())

# Times in ns from T0; the references' lie before it.
REQUESTS: Final = pa.schema(
    [
        ("id", pa.string()),
        ("worker", pa.uint16()),
        ("client", pa.uint16()),
        ("phase", _NAME),
        ("planned_ns", pa.int64()),
        ("sent_ns", pa.int64()),
        ("first_byte_ns", pa.int64()),  # null where the transport cannot see it
        ("received_ns", pa.int64()),
        ("status", _NAME),
        ("verified", pa.bool_()),
        ("correct", pa.bool_()),
        ("payload", pa.uint16()),
    ]
)
# Times in us since the Unix epoch, as the balancer's clock said; headers_us is null where no answer came.
BALANCER: Final = pa.schema(
    [
        ("id", pa.string()),
        ("accepted_us", pa.int64()),
        ("headers_us", pa.int64()),
        ("end_us", pa.int64()),
        ("status", pa.int16()),
        ("termination", _NAME),
        ("retries", pa.int16()),
        ("queue_ms", pa.int32()),
        ("server", _NAME),
    ]
)
# All samples of one scrape share its time (seconds from T0); labels are JSON with sorted keys.
SAMPLES: Final = pa.schema(
    [("source", _NAME), ("name", _NAME), ("labels", _NAME), ("time", pa.float64()), ("value", pa.float64())]
)
GENERATOR: Final = pa.schema(
    [
        ("worker", pa.uint16()),
        ("time_s", pa.float64()),
        ("cpu_percent", pa.float64()),  # 100 is one core
        ("rss_bytes", pa.int64()),
        ("in_flight", pa.int32()),
        ("connections", pa.int32()),
        ("verify_us", pa.float64()),  # spent on comparing answers, since the row before
        ("ship_us", pa.float64()),  # spent on sending records to the master, since the row before
        ("wait_percent", pa.float64()),  # of a second: all threads together, ready to run and without a core
        ("late_ms", pa.float64()),  # planned to sent of the latest of the requests that ended since the row before
        ("lag_ms", pa.float64()),  # how late the event loop woke a timer, at most since the row before
        ("stood_ms", pa.float64()),  # how long the event loop stood still since the row before, beyond 10 ms each time
        ("gc_ms", pa.float64()),  # spent on garbage collection since the row before
        ("wall_ns", pa.int64()),  # the wall clock less the monotonic clock of the worker's machine
        ("held", pa.float64()),  # requests that waited for one of the server's streams, since the row before
    ]
)
# Columns that came later: null where a table was written without them.
_ADDED: Final = {"first_byte_ns", "connections", "verify_us", "ship_us", *GENERATOR.names[8:]}

# Rows of a piece, where a table is made or read in pieces: what a long run needs in memory stays bounded.
PIECE_ROWS: Final = 1 << 20


class RunDirectoryError(LoadproofError):
    """A file of the run directory is there but cannot be read, or holds another schema."""


def campaign_directory(results: Path, name: str, now: datetime) -> Path:
    """Where a campaign that starts at `now` (aware) is written: `results/<plan>-<UTC time>`."""
    return results / f"{slug(name)}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def run_directory(number: int, name: str) -> str:
    """The run's directory below the campaign's; runs count from 1."""
    return f"runs/{number:03d}-{slug(name)}"


def slug(name: str) -> str:
    """`name` with only what is safe in a file name: letters, digits, dot, underscore and dash; at most 60 of them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "run"


def logs(run: Path) -> Path:
    return run / "logs"


def report_html(campaign: Path) -> Path:
    return campaign / "report.html"


def report_md(campaign: Path) -> Path:
    return campaign / "report.md"


def request_tables(run: str, records: Mapping[int, np.ndarray]) -> Iterator[pa.Table]:
    """The rows of `requests.parquet` (sorted by planned time) of each worker's RECORD array, in pieces.

    Times are from T0; `run` is the first part of the ids.
    """
    worker = np.repeat(np.array(list(records), np.uint16), [len(rows) for rows in records.values()])
    rows = np.concatenate([np.empty(0, RECORD), *records.values()])
    order = np.argsort(rows["planned_ns"], kind="stable")
    for start in range(0, len(order), PIECE_ROWS):
        piece = order[start : start + PIECE_ROWS]
        yield _request_table(run, rows[piece], worker[piece])


def write_requests(run: Path, tables: Iterable[Columns]) -> None:
    _write_table(run / "requests.parquet", tables, REQUESTS)


def write_balancer(run: Path, tables: Iterable[Columns]) -> None:
    _write_table(run / "balancer.parquet", tables, BALANCER)


def write_samples(run: Path, columns: Columns) -> None:
    _write_table(run / "samples.parquet", [columns], SAMPLES)


def write_generator(run: Path, columns: Columns) -> None:
    _write_table(run / "generator.parquet", [columns], GENERATOR)


def write_run(run: Path, facts: Mapping[str, Any]) -> None:
    """The last file of a run: its key `end` says whether the run was measured to its end, and why it ended."""
    _write_json(run / "run.json", {"schema": SCHEMA, **facts})


def write_campaign(campaign: Path, facts: Mapping[str, Any]) -> None:
    _write_json(campaign / "campaign.json", {"schema": SCHEMA, **facts})


def write_summary(campaign: Path, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """`summary.json`, and `rows` (flat, with the same keys, one a run) as `summary.csv`."""
    _write_json(campaign / "summary.json", summary)

    def table(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["name"])
            writer.writeheader()
            writer.writerows(rows)

    _atomically(campaign / "summary.csv", table)


def write_text(path: Path, text: str) -> None:
    _atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_requests(run: Path, columns: Sequence[str] | None = None) -> pa.Table:
    return _read_table(run / "requests.parquet", REQUESTS, columns)


def read_balancer(run: Path, columns: Sequence[str] | None = None) -> pa.Table:
    return _read_table(run / "balancer.parquet", BALANCER, columns)


def request_pieces(run: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """`read_requests` in pieces, for columns that are too large to hold: the ids."""
    return _read_pieces(run / "requests.parquet", REQUESTS, columns)


def balancer_pieces(run: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    return _read_pieces(run / "balancer.parquet", BALANCER, columns)


def codes(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The distinct texts of a dictionary column, and each row's index among them (int16); a null is the text ""."""
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    names = [name or "" for name in whole.dictionary.to_pylist()]
    return [*names, ""], whole.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)


def read_samples(run: Path) -> pa.Table:
    return _read_table(run / "samples.parquet", SAMPLES, None)


def read_generator(run: Path) -> pa.Table:
    return _read_table(run / "generator.parquet", GENERATOR, None)


def read_run(run: Path) -> dict[str, Any] | None:
    """`run.json`, or None for a run that ended before it was written."""
    return _read_json(run / "run.json")


def is_finished(run: Path) -> bool:
    """True where the run wrote that it was measured to its end; all else, a broken file included, is measured again."""
    try:
        facts = read_run(run)
    except RunDirectoryError:
        return False
    return bool(facts and (facts.get("end") or {}).get("finished"))


def read_campaign(campaign: Path) -> dict[str, Any]:
    """`campaign.json`. Raises RunDirectoryError where there is none: the directory is not a campaign's."""
    facts = _read_json(campaign / "campaign.json")
    if facts is None:
        raise RunDirectoryError(f"{campaign}: no campaign.json there; give a directory that `loadproof run` wrote")
    return facts


def read_summary(campaign: Path) -> dict[str, Any] | None:
    return _read_json(campaign / "summary.json")


def _request_table(run: str, rows: np.ndarray, worker: np.ndarray) -> pa.Table:
    letters = pa.DictionaryArray.from_arrays(pa.array(rows["phase"]), [phase[0] for phase in PHASES])
    found, status = np.unique(rows["status"], return_inverse=True)
    columns: dict[str, Any] = {name: rows[name] for name in REQUESTS.names if name in (RECORD.names or ())}
    columns |= {
        "first_byte_ns": pa.array(rows["first_byte_ns"], mask=rows["first_byte_ns"] == UNKNOWN_NS),
        "id": pc.binary_join_element_wise(
            run, _text(worker), _text(rows["sequence"]), letters.cast(pa.string()), pa.scalar(".")
        ),
        "worker": worker,
        "phase": pa.DictionaryArray.from_arrays(pa.array(rows["phase"], pa.int16()), list(PHASES)),
        "status": pa.DictionaryArray.from_arrays(
            pa.array(status, pa.int16()), pa.array([status_name(int(code)) for code in found], pa.string())
        ),
    }
    return _table(columns, REQUESTS)


def _text(numbers: np.ndarray) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _table(columns: Columns, schema: pa.Schema) -> pa.Table:
    if not isinstance(columns, pa.Table):
        names = [name for name in schema.names if name in columns or name not in _ADDED]
        columns = pa.table({name: _column(columns[name], schema.field(name).type) for name in names})
    return _complete(columns, schema)


def _complete(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the schema's columns; those that came later than it are null."""
    for field in schema:
        if field.name in _ADDED and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)


def _column(values: Any, kind: pa.DataType) -> Any:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def _write_table(path: Path, tables: Iterable[Columns], schema: pa.Schema) -> None:
    names = [field.name for field in schema if pa.types.is_dictionary(field.type)]

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=names) as writer:
            for table in tables:
                writer.write_table(_table(table, schema))

    _atomically(path, write)


def _read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    wanted = _wanted(schema, columns)
    if not path.exists():
        return wanted.empty_table()
    with _named_errors(path), pq.ParquetFile(path) as file:
        return _complete(file.read(_there(file, wanted)), wanted)


def _read_pieces(path: Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
    wanted = _wanted(schema, columns)
    if not path.exists():
        return
    with _named_errors(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(PIECE_ROWS, columns=_there(file, wanted)):
            yield _complete(pa.Table.from_batches([batch]), wanted)


def _wanted(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns or schema.names])


def _there(file: pq.ParquetFile, wanted: pa.Schema) -> list[str]:
    return [name for name in wanted.names if name in file.schema_arrow.names]


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """What cannot be read raises RunDirectoryError with the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def blamed(path: Path) -> Iterator[None]:
    """For what follows from the file at `path` alone: where that fails, the file holds what it cannot hold."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise RunDirectoryError(f"{path}: cannot be understood: {type(error).__name__}: {said}"[:500]) from error


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """On the disk when it returns: a machine that loses power leaves no empty file."""
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    _atomically(path, write)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(
            facts, ensure_ascii=False, allow_nan=False
        ).encode()  # neither NaN nor half a character, nor too deep
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise RunDirectoryError(f"{path}: not of schema {SCHEMA}; render it with the Loadproof that wrote it")
    if mistake := forms.mistake(path.name, facts):
        raise RunDirectoryError(f"{path}: cannot be read: {mistake}")
    return facts


def _atomically(path: Path, write: Callable[[Path], object]) -> None:
    """A reader sees the old file or the whole new one, also when the writer is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:  # of a write, as on a full disk, it names no file; of another call the temporary one
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
