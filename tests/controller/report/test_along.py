"""The chart along the run shows what is in the records, second by second, and stays small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from loadproof.analyse.population import Records, Window
from loadproof.report import along
from loadproof.report.style import Chart
from tests.controller import synthetic

WINDOW = Window.of(2, 10)


def generator(seconds: int, workers: int = 2) -> dict[str, Any]:
    time_s = np.repeat(np.arange(1.0, seconds + 1), workers)
    return {"time_s": time_s, "cpu_percent": np.tile(np.arange(10.0, 10.0 + workers), seconds)}


def drawn(chart: Chart) -> Any:
    """The chart as plotly itself understands it: raises on a key or value that plotly does not know."""
    return go.Figure(chart)


def traces(chart: Chart) -> dict[str, Any]:
    return {trace.name: trace for trace in drawn(chart).data}


def test_the_course_of_the_run_counts_what_came_each_second(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path, lambda made: synthetic.fail(made, 30)))
    shown = traces(along.over_time(records, WINDOW, generator(12), 640))
    came = records.received_ns[records.good & (records.sent_ns >= 0)] / 1e9
    assert list(shown["good answers"].y) == [((came >= second) & (came < second + 1)).sum() for second in range(12)]
    assert sum(shown["failed or wrong"].y) == 30
    assert list(shown["busiest worker's CPU"].y) == [11.0] * 12
    first = records.good & (records.sent_ns >= 0) & (records.sent_ns < 1e9)
    expected = np.percentile(records.latency_ns(first), 50, method="inverted_cdf") / 1e6
    assert shown["p50"].y[0] == pytest.approx(expected, rel=1e-4)


def test_a_run_of_hours_is_drawn_in_blocks(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path))
    spread = 3600 * 4 / 12
    for name in ("sent_ns", "received_ns"):
        setattr(records, name, (getattr(records, name) * spread).astype(np.int64))
    chart = along.over_time(records, Window.of(2 * spread, 10 * spread), generator(3600 * 4), 640)
    assert max(len(trace.x) for trace in drawn(chart).data) <= along.DOTS
    assert len(json.dumps(chart)) < 60_000


def test_failures_have_no_line_where_there_are_none(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path))
    none: dict[str, Any] = {"time_s": np.empty(0), "cpu_percent": np.empty(0)}
    shown = traces(along.over_time(records, WINDOW, none, 640))
    assert "failed or wrong" not in shown and "busiest worker's CPU" not in shown


def test_what_is_in_flight_is_the_integral_of_the_records(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path))
    shown = traces(along.over_time(records, WINDOW, generator(12), 640))["in flight"]
    overlap = np.minimum(records.received_ns, 4e9) - np.maximum(records.sent_ns, 3e9)
    assert shown.y[3] == pytest.approx(overlap.clip(0).sum() / 1e9, rel=1e-4)


def test_an_open_loop_shows_what_was_offered_and_how_late_it_was_sent(tmp_path: Path) -> None:
    synthetic.run(tmp_path, of=synthetic.spec(arrivals="poisson", rate_rps=300))
    records = Records(tmp_path, is_open=True)
    shown = traces(along.over_time(records, WINDOW, generator(12), 640))
    due = records.planned_ns[records.planned_ns >= 0]
    assert sum(shown["offered"].y) == len(due) and len(shown["p99 of lateness"].y) == 12
    late = (records.sent_ns - records.planned_ns)[(records.planned_ns >= 0) & (records.planned_ns < 1e9)]
    expected = np.percentile(late, 99, method="inverted_cdf") / 1e6
    assert shown["p99 of lateness"].y[0] == pytest.approx(expected, rel=1e-4)
