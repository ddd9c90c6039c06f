"""The report's charts, as plotly figures: bounded in size however many requests stand behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from scipy.stats import binom

from controller import display, statistics
from controller.population import Records, Window

INK: Final = "#1d2733"
QUIET: Final = "#66717f"
GRID: Final = "#e7eaee"
BLUE: Final = "#2b6a99"
PALE: Final = "#a9c6dc"
ORANGE: Final = "#d9822b"
RED: Final = "#b3261e"
SHADE: Final = "rgba(102, 113, 127, 0.10)"
VERDICTS: Final = {"VALID": "#1b7f5a", "FLAGGED": "#b7791f", "INVALID": RED}
PARTS: Final = {
    "client_network": "#2b6a99",
    "balancer": "#7fb0cf",
    "server_queue": "#e3a857",
    "inference": "#4f9a77",
    "server_rest": "#b9b3a9",
}
BINS: Final = 80
BLOCKS: Final = 300
DOTS: Final = 800
_NINES: Final = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)

Array = NDArray[Any]


def distribution(latency_ns: Array) -> go.Figure:
    """Histogram of the sorted latencies; the axis ends where few are left, and says how many lie beyond."""
    ms = latency_ns / 1e6
    end = min(ms[-1], ms[statistics.rank(len(ms), 0.99) - 1] * 1.6) * 1.0001
    counts, edges = np.histogram(ms, BINS, (ms[0], max(end, ms[0] + 1e-6)))
    middles = (edges[1:] + edges[:-1]) / 2
    figure = go.Figure(
        go.Bar(x=_light(middles), y=counts, marker_color=PALE, hovertemplate="%{x:.3g} ms: %{y:,}<extra></extra>")
    )
    # Labels of neighbours that lie close would run into each other: they take turns in height.
    for step, (name, p) in enumerate((("p50", 0.5), ("p95", 0.95), ("p99", 0.99))):
        value = statistics.nearest_rank(latency_ns, p)
        if value is not None:
            figure.add_vline(value / 1e6, line={"color": INK, "width": 1, "dash": "dot"})
            label = f"{name} {display.figure(value / 1e6)}"
            figure.add_annotation(
                x=value / 1e6, y=1.0 - 0.09 * step, yref="paper", text=label, showarrow=False, xanchor="left", xshift=4
            )
    beyond = len(ms) - int(counts.sum())
    title = f"latency, ms ({beyond:,} of {len(ms):,} lie beyond this axis)" if beyond else "latency, ms"
    figure.update_layout(_layout(300), bargap=0.06, xaxis_title=title, yaxis_title="requests")
    return figure


def percentile_curve(latency_ns: Array) -> go.Figure:
    """Sorted latency over its percentile on a scale of nines, with the 99 % confidence band of each point."""
    n = len(latency_ns)
    nines = np.linspace(0, np.log10(n), 160)
    p = np.minimum(1 - 10**-nines, 1.0)
    tail = (1 - statistics.CONFIDENCE) / 2
    low = np.clip(binom.ppf(tail, n, p), 1, n).astype(np.int64)
    high = np.clip(binom.ppf(1 - tail, n, p) + 1, 1, n).astype(np.int64)
    rank = np.clip(np.ceil(p * n), 1, n).astype(np.int64)
    ms, x = latency_ns / 1e6, _light(nines)
    band = {"mode": "lines", "line_width": 0, "hoverinfo": "skip", "showlegend": False}
    figure = go.Figure(
        [
            go.Scatter(x=x, y=_light(ms[low - 1]), **band),
            go.Scatter(x=x, y=_light(ms[high - 1]), fill="tonexty", fillcolor="rgba(43, 106, 153, 0.16)", **band),
            go.Scatter(
                x=x,
                y=_light(ms[rank - 1]),
                line={"color": BLUE, "width": 2},
                customdata=_light(p * 100, np.float64),
                hovertemplate="%{customdata:.4g} %: %{y:.3g} ms<extra></extra>",
                showlegend=False,
            ),
        ]
    )
    ticks = [nine for nine in _NINES if nine <= 1 - 1 / n]
    figure.update_layout(_layout(300), xaxis_title="percentile", yaxis_title="latency, ms", yaxis_rangemode="tozero")
    figure.update_xaxes(
        tickvals=[-np.log10(1 - nine) for nine in ticks],
        ticktext=[f"{nine:.5%}".rstrip("0%").rstrip(".") for nine in ticks],
    )
    return figure


def over_time(records: Records, window: Window, generator: Mapping[str, Array]) -> go.Figure:
    """Throughput, latency and the busiest worker's CPU along the run; what lies outside the window is shaded.

    A point stands for a block of a second, or longer so that there are at most BLOCKS; its percentiles are the block's.
    """
    block_ns = max(1, -(-window.end // (BLOCKS * 10**9))) * 10**9
    figure = make_subplots(rows=3, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.32, 0.44, 0.24])
    run = records.sent_ns >= 0
    _throughput(figure, records, run, block_ns, window)
    _latency(figure, records, run, block_ns)
    if len(generator["time_s"]):
        time_s, slot = np.unique(np.ceil(generator["time_s"]), return_inverse=True)
        busiest = np.zeros(len(time_s))
        np.maximum.at(busiest, slot, generator["cpu_percent"])
        keep = slice(None, None, -(-len(time_s) // BLOCKS))
        figure.add_scatter(
            x=_light(time_s[keep]), y=_light(busiest[keep]), row=3, col=1, name="busiest worker's CPU", line_color=QUIET
        )
    figure.update_layout(
        _layout(520), hovermode="x unified", showlegend=True, legend={"orientation": "h", "y": 1.07, "x": 0}
    )
    for row, title in enumerate(
        (f"per second, in blocks of {block_ns // 10**9} s", "latency, ms", "CPU, % of a core"), 1
    ):
        figure.update_yaxes(title_text=title if row > 1 else "answers / s", rangemode="tozero", row=row, col=1)
    last = max(window.end, int(records.received_ns[run].max(initial=0))) / 1e9
    for start, end in ((0, window.start / 1e9), (window.end / 1e9, last)):
        if end > start:
            figure.add_vrect(start, end, fillcolor=SHADE, line_width=0, layer="below", row="all", col=1)
    figure.update_xaxes(range=[0, last])
    figure.update_xaxes(title_text=f"seconds from T0; a point is {block_ns // 10**9} s", row=3, col=1)
    return figure


def witnesses(run: Mapping[str, Any]) -> go.Figure:
    """Mean, p50 and p99 as each witness saw them; a percentile of the server is the range of its histogram bucket."""
    figure = go.Figure()
    marks = {"mean": ("line-ns", INK), "p50": ("circle", BLUE), "p99": ("diamond", ORANGE)}
    seen = {name: witness["latency_ms"] for name, witness in reversed(run["witnesses"].items()) if witness}
    for metric, (symbol, color) in marks.items():
        ranges = [
            (name, value) for name, latency in seen.items() if isinstance(value := latency[metric], list) and value[1]
        ]
        for name, (low, high) in ranges:
            figure.add_scatter(
                x=[low, high],
                y=[name, name],
                mode="lines",
                line={"color": color, "width": 7},
                opacity=0.45,
                showlegend=False,
                hovertemplate=f"{metric} lies between {low:.3g} and {high:.3g} ms<extra>{name}</extra>",
            )
        points = {name: latency[metric] for name, latency in seen.items() if isinstance(latency[metric], float)}
        figure.add_scatter(
            x=list(points.values()),
            y=list(points),
            name=metric,
            mode="markers",
            hovertemplate="%{x:.3g} ms<extra>%{y}</extra>",
            marker={
                "symbol": symbol,
                "color": color,
                "size": 11,
                "line": {"color": color, "width": 2 if metric == "mean" else 0},
            },
        )
    figure.update_layout(_layout(230), xaxis_title="latency, ms", xaxis_rangemode="tozero", showlegend=True)
    figure.update_layout(
        legend={"orientation": "h", "y": 1.25, "x": 0}, yaxis={"categoryarray": list(seen), "categoryorder": "array"}
    )
    return figure


def time_spent(runs: Sequence[Mapping[str, Any]]) -> go.Figure:
    """A bar a run: the parts that its mean latency is made of."""
    names = [run.get("name", "") for run in runs]
    figure = go.Figure()
    for part, color in PARTS.items():
        values = [max(0.0, run["breakdown_ms"][part] or 0.0) for run in runs]
        figure.add_bar(
            x=values,
            y=names,
            orientation="h",
            name=display.PARTS[part],
            marker_color=color,
            hovertemplate="%{x:.3g} ms",
            text=[display.figure(value) for value in values],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            textfont={"color": "white", "size": 12},
            constraintext="none" if len(runs) == 1 else "inside",
        )
    height = 150 + 26 * (len(runs) - 1)
    figure.update_layout(_layout(height), barmode="stack", xaxis_title="mean latency, ms", showlegend=True, bargap=0.3)
    figure.update_layout(
        legend={"orientation": "h", "y": 1 + 45 / height, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    )
    figure.update_layout(margin_t=50, uniformtext={"minsize": 10, "mode": "hide"})
    figure.update_yaxes(autorange="reversed", showticklabels=len(runs) > 1)
    return figure


def overview(runs: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Latency over throughput: a run has its p50 and its p99 (or p95) on one vertical line, coloured by its verdict."""
    figure = go.Figure()
    shown = [run for run in runs if run["throughput_rps"] is not None and run["latency_ms"]["p50"] is not None]
    high = "p99" if all(run["latency_ms"]["p99"] is not None for run in shown) else "p95"
    for run in shown:
        x, low_ms, high_ms = run["throughput_rps"], run["latency_ms"]["p50"], run["latency_ms"][high]
        figure.add_scatter(
            x=[x, x],
            y=[low_ms, high_ms],
            mode="lines+markers+text",
            text=["", run["name"]],
            textposition="top center",
            marker={"symbol": ["circle", "diamond"], "size": 9, "color": VERDICTS[run["verdict"]]},
            showlegend=False,
            line={"color": PALE, "width": 1},
            hovertemplate="%{x:,.1f} /s, %{y:.3g} ms<extra>" + str(run["name"]) + "</extra>",
        )
    figure.update_layout(
        _layout(400), xaxis_title="throughput, answers / s", xaxis_rangemode="tozero", yaxis_rangemode="tozero"
    )
    figure.update_layout(yaxis_title=f"latency, ms: p50 (dot) and {high} (diamond)", margin_t=40)
    return figure


def _throughput(figure: go.Figure, records: Records, run: Array, block_ns: int, window: Window) -> None:
    """Answers per second by the time they came, whole blocks only; failed and wrong ones in red."""
    whole = window.end // block_ns
    for rows, name, color in ((records.good, "good answers", BLUE), (~records.good, "failed or wrong", RED)):
        came = records.received_ns[run & rows & (records.received_ns < whole * block_ns)] // block_ns
        if name == "good answers" or len(came):
            rate = np.bincount(came, minlength=whole) / (block_ns / 1e9)
            at = (np.arange(whole) + 0.5) * block_ns / 1e9
            figure.add_scatter(x=_light(at), y=_light(rate), row=1, col=1, name=name, line={"color": color, "width": 2})


def _latency(figure: go.Figure, records: Records, run: Array, block_ns: int) -> None:
    """Each block's p50, p95 and maximum over a sample of single requests, by the time they were sent."""
    good = run & records.good
    latency, sent = records.latency_ns(good), records.sent_ns[good]
    keep = slice(None, None, max(1, len(sent) // DOTS))
    figure.add_scatter(
        x=_light(sent[keep] / 1e9),
        y=_light(latency[keep] / 1e6),
        row=2,
        col=1,
        mode="markers",
        hoverinfo="skip",
        marker={"size": 3, "color": PALE},
        name="sampled requests",
    )
    for p, name, color in ((0.5, "p50", BLUE), (0.95, "p95", ORANGE), (1.0, "slowest", QUIET)):
        blocks, ns = statistics.by_block(latency, sent // block_ns, p)
        at = (blocks + 0.5) * block_ns / 1e9
        style = {"color": color, "width": 1 if p == 1 else 2, "dash": "dot" if p == 1 else "solid"}
        figure.add_scatter(x=_light(at), y=_light(ns / 1e6), row=2, col=1, name=name, line=style)


def _layout(height_px: int) -> dict[str, Any]:
    axis = {
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "linecolor": GRID,
        "automargin": True,
        "title_standoff": 8,
        "fixedrange": True,
    }
    return {
        "template": "none",
        "height": height_px,
        "margin": {"l": 56, "r": 16, "t": 24, "b": 44},
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": QUIET},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "xaxis": axis,
        "yaxis": axis,
    }


def _light(values: Array, kind: Any = np.float32) -> Array:
    """Seven digits are plenty for a chart, and half the bytes."""
    return np.ascontiguousarray(values, kind)
