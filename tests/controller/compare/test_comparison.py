"""What is said of two sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof import analyse
from loadproof.compare import comparison, sides, texts
from loadproof.compare.comparison import METRICS, Comparison
from loadproof.compare.sides import summarised
from loadproof.errors import UsageError
from tests.controller import synthetic
from tests.controller.compare import campaigns


def test_every_compared_metric_is_one_of_the_summary(tmp_path: Path) -> None:
    summary = summarised(campaigns.repeats(tmp_path, 1, count=1))
    assert set(METRICS) <= set(analyse.metrics(summary.runs[0]))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Comparison]:
    place = tmp_path_factory.mktemp("three")
    alike, slowed = campaigns.repeats(place / "alike", 11), campaigns.repeats(place / "slowed", 21, slower=1.1)
    return comparison.compare([campaigns.repeats(place / "base", 1), alike, slowed])


def test_repeats_that_are_alike_show_no_evidence_and_slowed_ones_are_worse(three: list[Comparison]) -> None:
    alike, slowed = (one.pairs[0] for one in three)
    assert (alike.verdict, slowed.verdict) == ("no evidence", "worse")
    assert slowed.primary == "throughput_rps" and not slowed.within
    change = slowed.changes["throughput_rps"]
    assert change.ratio is not None and change.ratio.low < 1 / 1.1 < change.ratio.high < 1
    assert slowed.changes["p50_ms"].evidence == "worse"
    assert slowed.changes["p99_9_ms"].ratio is None  # too few requests


def test_intervals_of_several_pairs_hold_together(three: list[Comparison]) -> None:
    assert [one.confidence for one in three] == [0.995, 0.995]


def test_with_fewer_than_five_repeats_seconds_within_the_runs_are_the_units(tmp_path: Path) -> None:
    few = campaigns.repeats(tmp_path / "few", 1, count=2, duration_s=5.0)
    many = campaigns.repeats(tmp_path / "many", 11, slower=1.5, duration_s=5.0)
    (pair,) = comparison.compare([few, many])[0].pairs
    assert pair.within and (pair.before, pair.after) == (2, 5)
    assert pair.verdict == "worse"
    figures = [one.throughput_rps or 0 for one in summarised(few).runs]
    assert pair.changes["throughput_rps"].before == pytest.approx(sum(figures) / 2)


def test_the_seconds_of_several_runs_stand_one_after_the_other(tmp_path: Path) -> None:
    side = sides.read(campaigns.repeats(tmp_path, 1, count=3, duration_s=2.5))
    blocks = comparison._blocks(side.runs)
    assert len(blocks.came) == 6  # the half seconds are left out
    assert np.bincount(blocks.block) == pytest.approx(
        blocks.came, rel=0.05
    )  # due in it and come in it: almost the same


def test_windows_that_are_too_short_are_no_evidence(tmp_path: Path) -> None:
    a, b = (campaigns.repeats(tmp_path / name, 1, slower, count=1) for name, slower in (("a", 1.0), ("b", 3.0)))
    (pair,) = comparison.compare([a, b])[0].pairs
    assert pair.verdict == "no evidence" and pair.changes["throughput_rps"].ratio is None
    assert pair.changes["throughput_rps"].before is not None


def test_an_open_loop_is_judged_by_its_latency_and_any_metric_can_be_the_one(tmp_path: Path) -> None:
    rate: dict[str, Any] = {"arrivals": "poisson", "rate_rps": 200.0}
    a = campaigns.repeats(tmp_path / "a", 1, **rate)
    b = campaigns.repeats(tmp_path / "b", 11, slower=1.1, **rate)
    (pair,) = comparison.compare([a, b])[0].pairs
    assert (pair.primary, pair.verdict) == ("p50_ms", "worse")
    (pair,) = comparison.compare([a, b], metric="mean_ms")[0].pairs
    assert (pair.primary, pair.verdict) == ("mean_ms", "worse")
    with pytest.raises(UsageError, match="--metric speed: there are: throughput_rps, mean_ms"):
        comparison.compare([a, b], metric="speed")


def test_runs_that_cannot_be_trusted_are_left_out_and_named(tmp_path: Path) -> None:
    bad = campaigns.made(3, slower=5.0)
    synthetic.fail(bad, 3)
    a = campaigns.repeats(tmp_path / "a", 1)
    b = campaigns.campaign(tmp_path / "b", [*(campaigns.made(seed) for seed in range(11, 16)), bad])
    (found,) = comparison.compare([a, b])
    assert [(pair.before, pair.after, pair.verdict) for pair in found.pairs] == [(5, 5, "no evidence")]
    assert found.left_out == [f"{b}: quick #6"]


def disturbed(seed: int, **load: Any) -> synthetic.Made:
    """A run beside which something else used half of the machine: slower than its like."""
    made = campaigns.made(seed, slower=1.6, **load)
    busy = "machine_busy_seconds_total"  # one more second each second
    made.samples = [(*row[:4], row[4] + row[3]) if row[1] == busy else row for row in made.samples]
    return made


def test_runs_that_others_disturbed_are_left_out_where_five_without_are_there(tmp_path: Path) -> None:
    a, more = campaigns.repeats(tmp_path / "a", 1), [disturbed(5), disturbed(6)]
    unlike = disturbed(7, clients=9)
    slowed = [campaigns.made(seed, slower=1.1) for seed in range(11, 15)]
    (few,) = comparison.compare([a, campaigns.campaign(tmp_path / "few", [*slowed, *more])])
    assert few.disturbed == [] and len(few.flagged) == 2 and few.pairs[0].after == 6
    assert few.pairs[0].verdict == "no evidence"  # what the two make of the spread
    enough = campaigns.campaign(tmp_path / "enough", [*slowed, campaigns.made(15, slower=1.1), *more, unlike])
    (found,) = comparison.compare([a, enough])
    assert (found.pairs[0].after, found.pairs[0].verdict) == (5, "worse")
    assert found.disturbed == [f"{enough}: quick #6", f"{enough}: quick #7"] and found.flagged == []
    assert any("disturbed are left out" in line and "quick #7" in line for line in texts.warnings(found, []))


def test_a_side_with_invalid_runs_only_proves_nothing(tmp_path: Path) -> None:
    bad = campaigns.made(3)
    synthetic.fail(bad, 3)
    a, b = campaigns.repeats(tmp_path / "a", 1, count=1), campaigns.campaign(tmp_path / "b", [bad])
    (pair,) = comparison.compare([a, b])[0].pairs
    assert not pair.is_sound and pair.verdict == "no evidence"
