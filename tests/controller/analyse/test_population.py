"""The populations that figures are taken over."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loadproof.analyse.population import Records, Window
from loadproof_clients.records import UNSENT
from tests.controller import synthetic
from tests.controller.synthetic import MEASURE, Made


def test_sent_is_the_sum_of_ok_failed_and_wrong(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        synthetic.fail(made, 7)
        rows = np.flatnonzero(made.records[2]["phase"] == MEASURE)[:5]
        made.records[2]["correct"][rows] = False
        made.records[2]["verified"][rows[:2]] = False

    records = Records(synthetic.run(tmp_path, harm))
    counts = records.counts(records.measured)
    assert (counts.failed, counts.wrong) == (
        7,
        3,
    )  # two of the five were not verified: nobody knows that they are wrong
    assert counts.sent == counts.ok + counts.failed + counts.wrong == records.measured.sum()
    assert records.errors(records.measured) == {"UNAVAILABLE": 7}


def test_a_failure_is_never_wrong_as_well(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        synthetic.fail(made, 4)
        made.records[1]["verified"] = True

    records = Records(synthetic.run(tmp_path, harm))
    assert records.counts(records.measured).wrong == 0


def test_a_run_without_records_has_none_of_anything(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert len(records) == 0 and records.counts(records.measured).sent == 0
    assert records.sent == 0 and records.errors(records.measured) == {}


def test_the_window_begins_after_the_warm_up() -> None:
    assert Window.of(0.5, 2) == (500_000_000, 2_500_000_000)
    assert Window.of(0.5, 2).holds(np.array([0, 500_000_000, 2_499_999_999, 2_500_000_000])).tolist() == [0, 1, 1, 0]


def test_an_open_loops_latency_runs_from_the_planned_time(tmp_path: Path) -> None:
    synthetic.run(tmp_path, of=synthetic.spec(arrivals="poisson", rate_rps=200))
    records, closed = Records(tmp_path, is_open=True), Records(tmp_path)
    rows = records.measured
    assert (records.lateness_ns(rows) > 0).any()
    np.testing.assert_array_equal(records.latency_ns(rows), records.service_ns(rows) + records.lateness_ns(rows))
    np.testing.assert_array_equal(closed.latency_ns(rows), closed.service_ns(rows))


def test_what_was_never_sent_is_neither_sent_nor_failed(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path, lambda made: synthetic.fail(made, 7, UNSENT)))
    counts = records.counts(records.measured)
    assert (counts.unsent, counts.failed) == (7, 0) and counts.sent == records.measured.sum() - 7
    assert records.sent == len(records) - 7 and records.errors(records.measured) == {}
