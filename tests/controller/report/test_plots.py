"""The charts show what is in the records, and stay small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from loadproof import analyse
from loadproof.report import plots
from loadproof.report.style import Chart
from tests.controller import synthetic


def latencies(n: int) -> Any:
    return np.sort(np.random.default_rng(1).lognormal(16, 0.5, n).astype(np.int64))


def drawn(chart: Chart) -> Any:
    """The chart as plotly itself understands it: raises on a key or value that plotly does not know."""
    return go.Figure(chart)


def traces(chart: Chart) -> dict[str, Any]:
    return {trace.name: trace for trace in drawn(chart).data}


def test_the_histogram_holds_every_request_or_says_how_many_lie_beyond() -> None:
    ns = latencies(20_000)
    figure = drawn(plots.distribution(ns, 300))
    beyond = 20_000 - sum(figure.data[0].y)
    assert 0 < beyond < 200 and f"({beyond:,} of 20,000 lie beyond" in figure.layout.xaxis.title.text
    labels = [note.text for note in figure.layout.annotations]
    assert [label.split()[0] for label in labels] == ["p50", "p95", "p99"]


def test_the_percentile_curve_rises_inside_its_band_up_to_the_slowest() -> None:
    ns = latencies(5000)
    low, high, curve = (np.asarray(trace.y) for trace in drawn(plots.percentile_curve(ns, 300)).data)
    assert (low <= curve).all() and (curve <= high).all() and (np.diff(curve) >= 0).all()
    assert curve[-1] == pytest.approx(ns[-1] / 1e6, rel=1e-4)
    ticks = list(drawn(plots.percentile_curve(ns, 300)).layout.xaxis.ticktext)
    assert ticks == ["50", "90", "99", "99.9"]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_requests_still_make_charts(n: int) -> None:
    assert sum(drawn(plots.distribution(np.full(n, 5_000_000), 300)).data[0].y) == n
    assert len(drawn(plots.percentile_curve(latencies(n), 300)).data) == 3


def test_witnesses_and_parts_are_drawn_as_they_are_summarised(tmp_path: Path) -> None:
    run = analyse.run(synthetic.run(tmp_path), {})
    points = traces(plots.witnesses(run, 230))
    assert list(points["mean"].y) == ["server", "balancer", "client"]
    assert list(points["p99"].y) == ["balancer", "client"]  # the server's is a range
    parts = drawn(plots.time_spent([run], 150))
    assert sum(bar.x[0] for bar in parts.data) == pytest.approx(run.latency_ms.mean)


def test_the_overview_names_repeats_once(tmp_path: Path) -> None:
    runs = [analyse.run(synthetic.run(tmp_path / str(n), seed=n), {}, name=f"r{n}") for n in (1, 2)]
    assert [trace.text[1] for trace in drawn(plots.overview(runs, 400)).data] == ["r1", ""]
    assert [trace.x[0] for trace in drawn(plots.overview(runs, 400)).data] == [run.throughput_rps for run in runs]
