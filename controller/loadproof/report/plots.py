"""The report's charts as plotly.js takes them, `{data, layout}`: of bounded size however many requests there are.

Plain tables, not `plotly.graph_objects`: those took 0.25 s for each run's charts, and a campaign has forty runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy.stats import binom

from loadproof.analyse import RunSummary, statistics
from loadproof.report import display
from loadproof.report.style import BAND, BLUE, INK, ORANGE, PALE, VERDICTS, Array, Chart, Trace, axis, layout, light


class Part(NamedTuple):
    """A part of a request's time."""

    key: str  # in `breakdown_ms`
    name: str
    color: str


PARTS: Final = (
    Part("lateness", "sent late", "#8a5a83"),
    Part("client_network", "client + network", "#2b6a99"),
    Part("balancer_network", "balancer + network", "#7fb0cf"),
    Part("server_queue", "server queue", "#e3a857"),
    Part("inference", "inference", "#4f9a77"),
    Part("server_rest", "rest of the server", "#b9b3a9"),
)
BINS: Final = 80


def distribution(latency_ns: Array, height_px: int) -> Chart:
    """Histogram of the sorted latencies; the axis ends where few are left, and says how many lie beyond."""
    ms = latency_ns / 1e6
    end = min(ms[-1], ms[statistics.rank(len(ms), 0.99) - 1] * 1.6)
    counts, edges = np.histogram(ms, BINS, (ms[0], max(end, ms[0] + 0.001)))
    beyond = len(ms) - int(counts.sum())
    title = f"latency, ms ({beyond:,} of {len(ms):,} lie beyond this axis)" if beyond else "latency, ms"
    bars = {"type": "bar", "x": light((edges[1:] + edges[:-1]) / 2), "y": counts.tolist(), "marker": {"color": PALE}}
    marks = {name: statistics.nearest_rank(ms, statistics.PERCENTILES[name]) for name in ("p50", "p95", "p99")}
    given = [(name, value) for name, value in marks.items() if value is not None]
    line = {"color": INK, "width": 1, "dash": "dot"}
    look = layout(height_px, xaxis=axis(title), yaxis=axis("requests"), bargap=0.06)
    look["shapes"] = [
        {"type": "line", "x0": value, "x1": value, "y0": 0, "y1": 1, "yref": "paper", "line": line}
        for _, value in given
    ]
    # Labels of neighbours that lie close would run into each other: each is a step lower.
    look["annotations"] = [
        {"x": value, "y": 1 - 0.09 * step, "yref": "paper", "text": f"{name} {display.figure(value)}"}
        | {"showarrow": False, "xanchor": "left", "xshift": 4}
        for step, (name, value) in enumerate(given)
    ]
    return {"data": [bars | {"hovertemplate": "%{x:.3g} ms: %{y:,}<extra></extra>"}], "layout": look}


def percentile_curve(latency_ns: Array, height_px: int) -> Chart:
    """Sorted latency over its percentile on a scale of nines, with the confidence band of each point."""
    n = len(latency_ns)
    nines = np.linspace(0, np.log10(n), 160)
    p = 1 - 10**-nines
    tail = (1 - statistics.CONFIDENCE) / 2
    ranks = (np.ceil(p * n + 1e-9), binom.ppf(tail, n, p), binom.ppf(1 - tail, n, p) + 1)
    curve, low, high = (light(latency_ns[np.clip(rank, 1, n).astype(np.int64) - 1] / 1e6) for rank in ranks)
    x = light(nines)
    unseen = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    shown = {"mode": "lines", "line": {"color": BLUE, "width": 2}, "customdata": (p * 100).tolist()}
    ticks = [(count, f"{100 - 100 / 10**count:.5g}") for count in range(1, 8) if 10**count <= n]
    ticks = [(np.log10(2), "50"), *ticks] if n > 1 else []
    nines_axis = axis("percentile", tickvals=[float(at) for at, _ in ticks], ticktext=[text for _, text in ticks])
    return {
        "data": [
            {"x": x, "y": low, **unseen},
            {"x": x, "y": high, "fill": "tonexty", "fillcolor": BAND, **unseen},
            {"x": x, "y": curve, **shown, "hovertemplate": "%{customdata:.5g} %: %{y:.3g} ms<extra></extra>"},
        ],
        "layout": layout(height_px, xaxis=nines_axis, yaxis=axis("latency, ms", rangemode="tozero")),
    }


def witnesses(run: RunSummary, height_px: int) -> Chart:
    """Mean, p50 and p99 as each witness saw them; a percentile of the server is the range of its histogram bucket."""
    seen = {name: witness.latency_ms for name, witness in reversed(run.witnesses.present().items())}
    data: list[Trace] = []
    for metric, symbol, color in (("mean", "line-ns", INK), ("p50", "circle", BLUE), ("p99", "diamond", ORANGE)):
        values = {name: latency[metric] for name, latency in seen.items()}
        points = {name: value for name, value in values.items() if isinstance(value, float)}
        ranges = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        line = {"color": color, "width": 2 if metric == "mean" else 0}
        data += [
            {"x": ends, "y": [name, name], "mode": "lines", "line": {"color": color, "width": 7}, "opacity": 0.45}
            | {"name": f"{metric} in its bucket", "showlegend": False}
            for name, ends in ranges.items()
            if ends[1] is not None
        ]
        data.append(
            {"x": list(points.values()), "y": list(points), "mode": "markers", "name": metric}
            | {"marker": {"symbol": symbol, "color": color, "size": 11, "line": line}, "hovertemplate": "%{x:.3g} ms"}
        )
    look = layout(
        height_px,
        xaxis=axis("latency, ms", rangemode="tozero"),
        yaxis=axis(None, categoryorder="array", categoryarray=list(seen)),
        showlegend=True,
        legend={"orientation": "h", "y": 1.25, "x": 0},
    )
    return {"data": data, "layout": look}


def time_spent(runs: Sequence[RunSummary], height_px: int) -> Chart:
    """A bar a run: the parts that its mean latency is made of; `height_px` is that of a single one."""
    names = [run.name for run in runs]
    data = []
    widest = max(sum(run.breakdown_ms[part.key] or 0.0 for part in PARTS) for run in runs)
    for part in PARTS:
        values = [max(0.0, run.breakdown_ms[part.key] or 0.0) for run in runs]
        if not any(values):
            continue
        texts = {
            "text": [display.figure(value) if value > 0.05 * widest else "" for value in values],
            "textposition": "inside",
            "textangle": 0,
        }
        inside = {"insidetextanchor": "middle", "textfont": {"color": "white", "size": 12}, "constraintext": "none"}
        bars = {"type": "bar", "orientation": "h", "x": values, "y": names, "marker": {"color": part.color}}
        data.append({**bars, **texts, **inside, "name": part.name, "hovertemplate": "%{x:.3g} ms"})
    height = height_px + 26 * (len(runs) - 1)
    look = layout(
        height,
        xaxis=axis("mean latency, ms"),
        yaxis=axis(None, autorange="reversed", showticklabels=len(runs) > 1),
        barmode="stack",
        bargap=0.3,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1 + 15 / height, "yanchor": "bottom", "traceorder": "normal"},
        uniformtext={"minsize": 10, "mode": "hide"},
    )
    look["margin"]["t"] = 50
    return {"data": data, "layout": look}


def overview(runs: Sequence[RunSummary], height_px: int) -> Chart:
    """Latency over throughput: a run has its p50 and its p99 (or p95) on one vertical line, coloured by its verdict."""
    shown = [run for run in runs if run.throughput_rps is not None and run.latency_ms.p50 is not None]
    high = "p99" if all(run.latency_ms.p99 is not None for run in shown) else "p95"
    labelled: set[str] = set()
    data = []
    for run in shown:
        # Repeats lie on top of each other: the first one is labelled.
        name, spec = run.name, json.dumps(run.spec, sort_keys=True)
        label = "" if spec in labelled else name
        labelled.add(spec)
        marker = {"symbol": ["circle", "diamond"], "size": 9, "color": VERDICTS[run.verdict]}
        data.append(
            {"x": [run.throughput_rps] * 2, "y": [run.latency_ms.p50, run.latency_ms[high]], "name": name}
            | {"mode": "lines+markers+text", "text": ["", label], "textposition": "top center", "marker": marker}
            | {"line": {"color": PALE, "width": 1}, "hovertemplate": "%{x:,.1f} /s, %{y:.3g} ms"}
        )
    look = layout(
        height_px,
        xaxis=axis("throughput, answers / s", rangemode="tozero"),
        yaxis=axis(f"latency, ms: p50 (dot) and {high} (diamond)", rangemode="tozero"),
    )
    return {"data": data, "layout": look}
