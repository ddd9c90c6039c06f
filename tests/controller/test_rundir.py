"""Run directories are written whole or not at all, and read back as they were written."""

from __future__ import annotations

import csv
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loadproof import rundir
from loadproof.rundir import RunDirectoryError
from loadproof_clients.records import CONNECTION, PHASES, RECORD, request_id, status_name
from tests.controller import synthetic


def test_records_become_rows_in_the_order_they_were_planned(tmp_path: Path) -> None:
    first, second = np.zeros(3, RECORD), np.zeros(2, RECORD)
    first["planned_ns"], second["planned_ns"] = [10, 30, 50], [20, 40]
    first["sequence"], second["sequence"] = [0, 1, 2], [0, 1]
    first["phase"], first["status"] = [2, 3, 4], [0, CONNECTION, 503]
    rundir.write_requests(tmp_path, rundir.request_tables("run-1", {1: first, 7: second}))
    table = rundir.read_requests(tmp_path)
    assert table.schema == rundir.REQUESTS
    assert table["planned_ns"].to_pylist() == [10, 20, 30, 40, 50]
    assert table["worker"].to_pylist() == [1, 7, 1, 7, 1]
    assert table["status"].to_pylist() == ["ok", "ok", "connection", "ok", "503"]
    assert table["phase"].to_pylist() == ["warmup", "reference", "measure", "reference", "drain"]


def test_a_row_carries_the_id_that_the_request_carried() -> None:
    rows = np.zeros(len(PHASES), RECORD)
    rows["sequence"], rows["phase"] = np.arange(len(PHASES)) + 4_000_000_000, np.arange(len(PHASES))
    expected = [request_id("a_b-1", 65_535, 4_000_000_000 + phase, phase) for phase in range(len(PHASES))]
    (table,) = rundir.request_tables("a_b-1", {65_535: rows})
    assert table["id"].to_pylist() == expected


def test_no_records_are_an_empty_table(tmp_path: Path) -> None:
    for records in ({}, {1: np.empty(0, RECORD)}):
        rundir.write_requests(tmp_path, rundir.request_tables("s", records))
        table = rundir.read_requests(tmp_path)
        assert table.num_rows == 0 and table.schema == rundir.REQUESTS
        assert list(rundir.request_pieces(tmp_path, ["id"])) == []


def test_a_long_run_is_written_and_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir, "PIECE_ROWS", 1000)
    rng = np.random.default_rng(1)
    records = {worker: np.zeros(2400, RECORD) for worker in (1, 2)}
    for rows in records.values():
        rows["planned_ns"], rows["sequence"] = rng.permutation(10**6)[:2400], np.arange(2400)
        rows["status"] = rng.choice([0, 14, 503], 2400)
    rundir.write_requests(tmp_path, rundir.request_tables("s", records))
    table = rundir.read_requests(tmp_path)
    assert table["planned_ns"].to_pylist() == sorted(np.concatenate([rows["planned_ns"] for rows in records.values()]))
    worker, sequence = table["worker"].to_pylist(), [int(one.split(".")[2]) for one in table["id"].to_pylist()]
    expected = [int(records[one]["status"][number]) for one, number in zip(worker, sequence, strict=True)]
    names, codes = rundir.codes(table["status"])
    assert [names[code] for code in codes] == [status_name(one) for one in expected] == table["status"].to_pylist()
    pieces = list(rundir.request_pieces(tmp_path, ["id", "status"]))
    assert len(pieces) > 1 and pa.concat_tables(pieces).select(["id"]) == table.select(["id"])


def test_a_column_that_came_later_is_null_in_an_older_table(tmp_path: Path) -> None:
    made = synthetic.make()
    made.write(tmp_path)
    old = pq.read_table(tmp_path / "generator.parquet").drop_columns(["connections", "verify_us"])
    pq.write_table(old, tmp_path / "generator.parquet")
    table = rundir.read_generator(tmp_path)
    assert table.schema == rundir.GENERATOR
    assert table["connections"].null_count == table.num_rows == len(made.generator["time_s"])


def test_every_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = synthetic.make()
    made.balancer["headers_us"] = [None, *made.balancer["headers_us"][1:].tolist()]
    made.write(tmp_path)
    balancer = rundir.read_balancer(tmp_path)
    assert balancer.schema == rundir.BALANCER and balancer["headers_us"][0].as_py() is None
    assert balancer["end_us"].to_pylist() == made.balancer["end_us"].tolist()
    assert rundir.read_samples(tmp_path)["value"].to_pylist() == [row[4] for row in made.samples]
    assert rundir.read_generator(tmp_path)["cpu_percent"].to_pylist() == made.generator["cpu_percent"].tolist()
    assert rundir.read_run(tmp_path) == {"schema": 1, **made.facts}


def test_what_was_never_written_reads_as_empty(tmp_path: Path) -> None:
    for read in (rundir.read_requests, rundir.read_balancer, rundir.read_samples, rundir.read_generator):
        assert read(tmp_path).num_rows == 0
    assert rundir.read_run(tmp_path) is None and rundir.read_summary(tmp_path) is None


def test_a_table_without_a_column_is_a_clear_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "requests.parquet")
    with pytest.raises(RunDirectoryError, match=r"requests\.parquet: cannot be read"):
        rundir.read_requests(tmp_path)


@pytest.mark.parametrize("name", ["requests.parquet", "balancer.parquet", "samples.parquet"])
def test_a_broken_table_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 and then nothing")
    read = {"r": rundir.read_requests, "b": rundir.read_balancer, "s": rundir.read_samples}[name[0]]
    with pytest.raises(RunDirectoryError, match=name):
        read(tmp_path)


def test_a_broken_or_foreign_json_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"run\.json: cannot be read"):
        rundir.read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 2}')
    with pytest.raises(RunDirectoryError, match=r"run\.json: not of schema 1"):
        rundir.read_run(tmp_path)


def test_a_directory_that_is_no_campaign_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no campaign\.json there"):
        rundir.read_campaign(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    rundir.write_run(tmp_path, {"name": "old"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        rundir.write_run(tmp_path, {"name": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        rundir.write_text(tmp_path / "run.json", "half of it \ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert rundir.read_run(tmp_path) == {"schema": 1, "name": "old"}


def test_the_summary_is_json_and_a_flat_table(tmp_path: Path) -> None:
    rundir.write_summary(
        tmp_path, {"schema": 1, "runs": []}, [{"name": "a, b", "p99_ms": None}, {"name": "c", "p99_ms": 1}]
    )
    assert json.loads((tmp_path / "summary.json").read_text()) == rundir.read_summary(tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"name": "a, b", "p99_ms": ""}, {"name": "c", "p99_ms": "1"}]


def test_directories_are_named_by_plan_time_and_number() -> None:
    noon = datetime(2026, 11, 22, 13, 0, 5, tzinfo=timezone(timedelta(hours=1)))
    assert rundir.campaign_directory(Path("results"), "quick", noon) == Path("results/quick-20261122T120005Z")
    assert rundir.run_directory(7, "load.clients=4 #2") == "runs/007-load.clients-4-2"


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "...", "x" * 300, "naïve name"])
def test_a_slug_never_leaves_its_directory(name: str) -> None:
    slug = rundir.slug(name)
    assert slug and len(slug) <= 60 and "/" not in slug and not slug.startswith(".")
