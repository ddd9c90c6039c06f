"""A level is cut short when nothing could save it any more, and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof.analyse import search
from loadproof.collect.early import MEASURE, EarlyFailure
from loadproof.plan import Run
from loadproof_clients.records import RECORD, TIMEOUT


def run(**more: Any) -> Run:
    """100 a second for 10 s: 1,000 requests, of which 5 % may take over 50 ms."""
    load = {"arrivals": "constant", "rate_rps": 100.0, **more.pop("load", {})}
    sections = {"server": {"model": "m"}, "load": load, "measure": {"warmup_s": 1.0, "duration_s": 10.0}}
    return Run.model_validate({"name": "r", "repeat": 1, "slo": {"p95_ms": 50.0}, **sections, **more})


def append(work: Path, slow: int, fast: int, worker: int = 1, **columns: Any) -> None:
    """More records of a worker: `slow` ones of 80 ms and `fast` ones of 8."""
    rows = np.zeros(slow + fast, RECORD)
    rows["received_ns"] = np.repeat([80_000_000, 8_000_000], [slow, fast])
    rows["phase"], rows["verified"], rows["correct"] = MEASURE, True, True
    for name, value in columns.items():
        rows[name] = value
    (work / "records").mkdir(exist_ok=True)
    with (work / "records" / f"worker-{worker}.rec").open("ab") as file:
        file.write(rows.tobytes())


def test_it_is_cut_when_all_that_is_still_to_come_could_not_save_it(tmp_path: Path) -> None:
    failing = EarlyFailure(run(), tmp_path)
    append(tmp_path, slow=40, fast=60)
    assert failing.decide(2.0) is None  # 40 of 100, but 40 of 1,200 would be good
    append(tmp_path, slow=45, fast=5, worker=2)
    cut = failing.decide(3.0)
    assert cut == {"at_s": 3.0, "metric": "p95_ms", "limit": 50.0, "over": 85, "of": 150, "worth": 150}
    assert search.share_holds(85, 1200, 1200, 0.05, last=False) is False


def test_whatever_is_cut_would_have_failed_in_full(tmp_path: Path) -> None:
    """Bad seconds at the start, and all the rest fast: where it is cut, the whole window is judged to fail as well."""
    cuts = []
    for number, slow in enumerate(range(30, 120, 6)):
        work = tmp_path / str(number)
        work.mkdir()
        append(work, slow=slow, fast=200 - slow)
        cut = EarlyFailure(run(), work).decide(3.0)
        in_full = search.share_holds(slow, 1000, 1000, 0.05, last=False)
        assert cut is None or in_full is False
        cuts.append(cut is not None)
    assert any(cuts) and not all(cuts)


def test_one_burst_is_not_enough_and_a_queue_that_grows_is(tmp_path: Path) -> None:
    """150 of 900 requests were slow: all at once, which may not come again, or more and more of them to the end."""
    for name, slow, cut in (("burst", range(300, 450), False), ("growing", range(500, 900), True)):
        work, rows = tmp_path / name, np.zeros(900, RECORD)
        work.mkdir()
        rows["planned_ns"] = np.arange(900) * 10_000_000 + 1_000_000_000
        rows["received_ns"] = rows["planned_ns"] + 8_000_000
        rows["received_ns"][slow] += np.arange(1, len(slow) + 1) * 1_000_000 + 50_000_000
        append(work, slow=0, fast=900, planned_ns=rows["planned_ns"], received_ns=rows["received_ns"])
        assert (EarlyFailure(run(), work).decide(9.9) is not None) is cut


def test_no_window_is_cut_before_its_first_second_or_after_its_end(tmp_path: Path) -> None:
    append(tmp_path, slow=500, fast=0)
    assert EarlyFailure(run(), tmp_path).decide(1.9) is None
    assert EarlyFailure(run(), tmp_path).decide(11.0) is None
    assert EarlyFailure(run(), tmp_path).decide(2.1) is not None


@pytest.mark.parametrize("columns", [{"status": TIMEOUT}, {"correct": False}])
def test_failed_and_wrong_answers_count_as_over_the_limit(tmp_path: Path, columns: dict[str, Any]) -> None:
    append(tmp_path, slow=0, fast=90, **columns)
    cut = EarlyFailure(run(), tmp_path).decide(3.0)
    assert cut is not None and cut["over"] == 90


def test_the_warm_up_does_not_count_and_neither_does_a_torn_record(tmp_path: Path) -> None:
    append(tmp_path, slow=500, fast=0, phase=MEASURE - 1)
    with (tmp_path / "records/worker-1.rec").open("ab") as file:
        file.write(b"\1" * (RECORD.itemsize - 1))
    failing = EarlyFailure(run(), tmp_path)
    assert failing.decide(3.0) is None and failing.decide(4.0) is None


def test_a_closed_loop_is_given_twice_what_its_rate_promises(tmp_path: Path) -> None:
    closed = run(load={"arrivals": "closed", "rate_rps": None})
    append(tmp_path, slow=30, fast=10)  # 20 a second: 200 in all, 400 at most
    assert EarlyFailure(closed, tmp_path).decide(3.0) is None
    append(tmp_path, slow=20, fast=0)
    assert EarlyFailure(closed, tmp_path).decide(4.0) is not None


def test_without_a_percentiles_limit_nothing_is_cut(tmp_path: Path) -> None:
    append(tmp_path, slow=500, fast=0)
    assert EarlyFailure(run(slo={"error_rate": 0.0}), tmp_path).decide(3.0) is None


def test_it_looks_twice_a_second_and_reports_a_failure_once(tmp_path: Path) -> None:
    failing = EarlyFailure(run(), tmp_path)
    assert not failing.look(2.0) and failing.found is None
    append(tmp_path, slow=500, fast=0)
    assert [failing.look(at_s) for at_s in (2.4, 2.6, 3.2)] == [False, True, False]
    assert failing.found is not None and failing.found["at_s"] == 2.6
