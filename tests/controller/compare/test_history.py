"""A metric over many campaigns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadproof.compare import history
from loadproof.compare.history import Point, Series
from loadproof.errors import UsageError
from tests.controller import synthetic
from tests.controller.compare import campaigns


def shown(series: list[Series], width: int) -> str:
    out = io.StringIO()
    history.show(series, "throughput_rps", Console(file=out, width=width))
    return out.getvalue()


def at(day: int) -> Any:
    return lambda facts: facts.update(created=f"2026-09-{day:02d}T10:00:00+00:00")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three campaigns of one plan, the last one slower, and one of another plan; written in another order."""
    place = tmp_path_factory.mktemp("results")
    campaigns.repeats(place / "z", 1, change=at(21))
    campaigns.repeats(place / "nested/a", 21, slower=1.1, change=at(23))
    campaigns.repeats(place / "b", 11, change=at(22))
    campaigns.repeats(place / "c", 1, count=1, clients=2, change=at(22))
    return place


def test_each_spec_has_its_campaigns_by_time(results: Path) -> None:
    series, broken = history.history(results, "throughput_rps")
    assert broken == []
    assert [[point.campaign for point in one.points] for one in series] == [["z", "b", "nested/a"], ["c"]]
    assert [len(point.values) for point in series[0].points] == [5, 5, 5]


@pytest.mark.parametrize("width", [50, 60, 80, 200])
def test_a_table_fits_and_says_where_it_became_worse(results: Path, width: int) -> None:
    text = shown(history.history(results, "throughput_rps")[0], width)
    assert max(len(line) for line in text.splitlines()) <= width and "…" not in text
    rows = [line for line in text.splitlines() if line.startswith("2026-09-2")]
    assert [("worse" in row, "better" in row) for row in rows[:3]] == [(False, False), (False, False), (True, False)]
    assert ("●" in text) == (width > 50)  # where there is room


def test_a_chart_lays_the_spread_between_the_least_and_the_most_of_all() -> None:
    plots = [history._plot(values, 0.0, 10.0, 11).plain for values in ([0.0, 10.0, 5.0], [2.0, 4.0, 3.0], [7.0])]
    assert plots == ["├────●────┤", "  ├●┤", "       ●"]
    assert history._plot([5.0, 5.0], 5.0, 5.0, 11).plain == "●"


def test_a_campaign_that_cannot_be_trusted_has_no_value_and_stands_in_no_ones_way(tmp_path: Path) -> None:
    bad = campaigns.made(5)
    synthetic.fail(bad, 3)
    campaigns.repeats(tmp_path / "a", 1, count=1, change=at(1))
    campaigns.campaign(tmp_path / "b", [bad], change=at(2))
    campaigns.repeats(tmp_path / "c", 1, slower=1.25, count=1, change=at(3))
    (series,), _ = history.history(tmp_path, "throughput_rps")
    assert [len(point.values) for point in series.points] == [1, 0, 1]
    change = history._change(series.points[0], series.points[2], "throughput_rps")
    assert change is not None and change.evidence == "no evidence" and change.ratio is None
    rows = [line for line in shown([series], 100).splitlines() if line.startswith("2026")]
    assert "—" in rows[1] and "-20." in rows[2]  # against the last that could be trusted


def test_a_broken_campaign_is_told_and_left_out(tmp_path: Path) -> None:
    campaigns.repeats(tmp_path / "good", 1, count=1)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/campaign.json").write_text("{")
    series, broken = history.history(tmp_path, "throughput_rps")
    assert len(series) == 1
    assert len(broken) == 1 and "bad/campaign.json: cannot be read" in broken[0]


def test_nothing_to_show_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no readable campaign below it"):
        history.history(tmp_path, "throughput_rps")
    with pytest.raises(UsageError, match="--metric speed: there are"):
        history.history(tmp_path, "speed")


def test_a_series_of_one_has_no_sparkline() -> None:
    def points(*values: float) -> list[Point]:
        return [Point("", "", 1, [value]) for value in values]

    assert history._sparkline(points(3.0)) == ""
    assert history._sparkline(points(1.0, 8.0, 4.0)) == "▁█▄"
    assert history._sparkline(points(5.0, 5.0)) == "▁▁"
