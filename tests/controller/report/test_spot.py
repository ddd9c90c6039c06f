"""The sweet spot in the report: told first, marked in the charts, and moved in a browser."""

from __future__ import annotations

import io
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from rich.console import Console

from loadproof import analyse, report, rundir
from loadproof.analyse import Summary
from loadproof.report import display, figures, spot, terminal
from loadproof.report.style import Chart
from tests.browser import browser
from tests.controller import synthetic

# Where the marks are drawn, as plotly has them; null where none is.
MARKED = (
    "(() => { const trace = document.getElementById('spot').data.find((one) => one.name === '" + spot.MARK + "');"
    " return [trace.x[0] ?? null, trace.y[0] ?? null]; })()"
)
FRAMED = (
    "(() => { const shape = document.getElementById('heat').layout.shapes[0];"
    " return shape.visible ? [shape.x0, shape.x1, shape.y0, shape.y1] : null; })()"
)

# The sides of each name in that chart, in px.
NAMES = (
    "[...document.querySelectorAll('#spot .textpoint text')].map((one) => one.getBoundingClientRect())"
    ".map((box) => [box.left, box.top, box.right, box.bottom])"
)


def made_run(streams: int, service_ms: float, **load: int) -> synthetic.Made:
    of = synthetic.spec(**load)
    of["server"] = {"model": "ocr-cls", "streams": streams, "launch": "process", "device": "CPU"}
    return synthetic.make(streams, service_ms, of)


def campaign(directory: Path, limit: float | None = 20.0) -> Summary:
    """Streams x batch, four configurations of 20 ms and less; the more work at a time, the slower and the more."""
    runs = []
    for streams, batch in ((1, 1), (1, 4), (2, 1), (2, 4)):
        made = made_run(streams, 4.0 * batch * (1 + 0.1 * streams), clients=2 * streams, batch=batch)
        runs.append((f"streams={streams}, batch={batch}", made))
    synthetic.campaign(directory, runs)
    facts = rundir.read_campaign(directory)
    facts["plan"]["sweet_spot"] = {"p95_ms": limit} if limit else {}
    rundir.write_campaign(directory, facts)
    summary = analyse.campaign(directory)
    report.render(directory)
    return summary


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("spot")
    campaign(directory)
    return directory


def answer(directory: Path) -> Any:
    summary = analyse.read(directory)
    assert summary is not None and summary.sweet_spot is not None
    return summary.sweet_spot


def drawn(chart: Chart | None) -> Any:
    """The chart as plotly itself understands it: raises on a key or value that plotly does not know."""
    assert chart is not None
    return go.Figure(chart)


def test_the_answer_comes_first_on_the_terminal_and_in_both_reports(directory: Path) -> None:
    out = io.StringIO()
    terminal.show(analyse.campaign(directory), Console(file=out, width=200))
    told = display.sweet_spot(answer(directory))
    assert told.startswith("Sweet spot: streams=2, batch=1: ") and "2 surely keep p95 within 20 ms" in told
    assert out.getvalue().startswith(told)
    page, text = (directory / "report.html").read_text(), (directory / "report.md").read_text()
    assert page.index(told) < page.index("<h2>All runs") and text.index(told) < text.index("| run |")


def test_the_mark_is_on_the_best_configuration(directory: Path) -> None:
    found = answer(directory)
    movable: Any = spot.movable(found)
    best = next(one for one in movable["rows"] if one["name"] == found.best)
    mark = next(trace for trace in drawn(spot.throughput_by_latency(found, 380)).data if trace.name == spot.MARK)
    assert [mark.x[0], mark.y[0]] == best["spot"]
    (frame,) = drawn(spot.streams_by_batch(found, 180)).layout.shapes
    assert frame.visible and {side: frame[side] for side in ("x0", "x1", "y0", "y1")} == best["heat"]


def test_the_chart_shows_bound_percentile_and_front(directory: Path) -> None:
    found = answer(directory)
    traces = {trace.name: trace for trace in drawn(spot.throughput_by_latency(found, 380)).data}
    rows = found.configurations
    assert list(traces["configurations"].y) == [one.latency_high_ms for one in rows]
    ends = [
        high - down
        for high, down in zip(traces["configurations"].y, traces["configurations"].error_y.arrayminus, strict=True)
    ]
    assert ends == pytest.approx([one.latency_ms for one in rows])
    assert list(traces["Pareto front"].x) == sorted(one.throughput_ips for one in rows if one.front)


def test_a_heat_map_needs_streams_and_batch(tmp_path: Path) -> None:
    runs = [(f"clients={n}", synthetic.make(n, of=synthetic.spec(clients=n))) for n in (2, 4)]
    summary = analyse.campaign(synthetic.campaign(tmp_path, runs))
    assert set(figures.charts(figures.of_campaign(summary))) == {"spot", "spent"}


def test_no_limit_and_no_answer_have_words_of_their_own(tmp_path: Path) -> None:
    campaign(tmp_path / "no", None)
    assert "no latency limit is set" in display.sweet_spot(answer(tmp_path / "no"))
    campaign(tmp_path / "tight", 0.5)
    told = display.sweet_spot(answer(tmp_path / "tight"))
    assert told.startswith("None of 4 configurations surely keeps p95 within 0.5 ms: the least upper bound is ")


def test_in_a_browser_the_limit_is_moved_and_the_mark_follows(directory: Path, tmp_path: Path) -> None:
    rows = {one.name: one for one in answer(directory).configurations}
    fast, loose = rows["streams=1, batch=1"], rows["streams=2, batch=4"]
    between = (fast.latency_high_ms + rows["streams=2, batch=1"].latency_high_ms) / 2
    with browser(tmp_path / "profile") as page:
        page.open(directory / "report.html")
        page.wait_for("document.querySelectorAll('#spot.js-plotly-plot, #heat.js-plotly-plot').length === 2")
        assert page.value("document.getElementById('spot').getBoundingClientRect().top < innerHeight - 300")
        marks = []
        for limit in (between, loose.latency_high_ms + 1, 0.01):
            _move(page, limit)
            marks.append([page.value(MARKED), page.value(FRAMED)])
        first, last = [-0.5, 0.5, -0.5, 0.5], [0.5, 1.5, 0.5, 1.5]
        assert marks[0] == [[fast.throughput_ips, fast.latency_high_ms], first]
        assert marks[1] == [[loose.throughput_ips, loose.latency_high_ms], last]
        assert marks[2] == [[None, None], None]
        assert page.value("document.querySelectorAll('#heat .shapelayer path').length") == 0
        assert page.value("document.getElementById('spot').layout.shapes[0].y0") == 0.01
        assert "None of 4 configurations" in page.value("document.getElementById('spot-answer').textContent")
        assert page.value("document.querySelectorAll('.js-plotly-plot .main-svg').length") > 0
        page.value("for (const one of document.querySelectorAll('details')) { one.open = true; one.scrollIntoView(); }")
        assert page.complaints == []


def test_in_a_browser_no_name_lies_on_another(tmp_path: Path) -> None:
    """Three configurations that do the same, and a fourth far from them."""
    made = [made_run(streams, 8.0, clients=4) for streams in (1, 2, 3)] + [made_run(4, 30.0, clients=4)]
    runs = [(f"streams={streams}, clients=4", one) for streams, one in enumerate(made, 1)]
    analyse.campaign(synthetic.campaign(tmp_path / "close", runs))
    report.render(tmp_path / "close")
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "close" / "report.html")
        page.wait_for("document.querySelectorAll('#spot.js-plotly-plot').length === 1")
        boxes = page.value(NAMES)
    assert len(boxes) == len(runs)
    for (left, upper, right, lower), (other_left, other_upper, other_right, other_lower) in combinations(boxes, 2):
        assert left >= other_right or other_left >= right or upper >= other_lower or other_upper >= lower, boxes


def _move(page: Any, limit: float) -> None:
    """As a hand does: the number is typed in."""
    page.value(
        f"(() => {{ const one = document.getElementById('limit'); one.value = {json.dumps(limit)};"
        " one.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
