"""The populations that figures are taken over."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from controller.analyse.population import Records, Window
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
    assert (counts["failed"], counts["wrong"]) == (
        7,
        3,
    )  # two of the five were not verified: nobody knows that they are wrong
    assert counts["sent"] == counts["ok"] + counts["failed"] + counts["wrong"] == records.measured.sum()
    assert records.errors() == {"UNAVAILABLE": 7}


def test_a_failure_is_never_wrong_as_well(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        synthetic.fail(made, 4)
        made.records[1]["verified"] = True

    records = Records(synthetic.run(tmp_path, harm))
    assert records.counts(records.measured)["wrong"] == 0


def test_a_run_without_records_has_none_of_anything(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert len(records) == 0 and records.counts(records.measured)["sent"] == 0 and records.errors() == {}


def test_the_window_begins_after_the_warm_up() -> None:
    assert Window.of(0.5, 2) == (500_000_000, 2_500_000_000)
