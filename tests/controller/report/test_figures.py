"""A chart is a row: what has one stands in the page once, at its place and with its height."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from loadproof import analyse, report
from loadproof.report import figures
from tests.controller import synthetic


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a campaign of two runs that differ in streams and batch."""
    directory, runs = tmp_path_factory.mktemp("figures"), []
    for streams, batch in ((1, 1), (2, 4)):
        of = synthetic.spec(batch=batch)
        of["server"] |= {"streams": streams}
        runs.append((f"streams={streams}, batch={batch}", synthetic.make(streams, of=of)))
    analyse.campaign(synthetic.campaign(directory, runs))
    report.render(directory)
    return (directory / "report.html").read_text()


def heights(page: str) -> dict[str, int]:
    return {key: int(px) for key, px in re.findall(r'class="chart" id="([\w-]+)" style="min-height:(\d+)px"', page)}


def test_every_row_is_drawn_once(page: str) -> None:
    of_runs = [f"{row.id}-{index}" for row in figures.OF_A_RUN for index in (0, 1)]
    together = [row.id for row in figures.OF_A_CAMPAIGN if row.id != "overview"]  # the sweet spot has more to say
    assert page.count('class="chart"') == len(heights(page)) and set(heights(page)) == {*of_runs, *together}


def test_the_page_keeps_as_much_room_as_the_chart_takes(page: str) -> None:
    found = re.search(r'id="figures">(.*?)</script>', page)
    assert found is not None
    drawn = {key: chart["layout"]["height"] for key, chart in json.loads(found[1]).items()}
    assert drawn == heights(page)
    assert drawn["time-0"] == next(row.height_px for row in figures.OF_A_RUN if row.id == "time")


def test_neighbours_below_one_heading_stand_side_by_side(page: str) -> None:
    assert re.search(r'Latency distribution</h3>\s*<div class="pair"><figure>.*?latency-0.*?curve-0', page, re.DOTALL)


def test_a_run_without_good_answers_has_no_chart(tmp_path: Path) -> None:
    run = analyse.run(tmp_path / "none", synthetic.spec(), place="none")
    assert figures.charts(figures.of_run(tmp_path, run, 0)) == {}
    assert not Path(tmp_path / "none").exists()
