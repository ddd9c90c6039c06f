"""The report's charts as plotly.js takes them, `{data, layout}`: of bounded size however many requests there are.

Plain tables, not `plotly.graph_objects`: those took 0.25 s for each run's charts, and a campaign has forty runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from controller.analyse import statistics
from controller.analyse.population import Records, Window
from controller.report import display

INK: Final = "#1d2733"
QUIET: Final = "#66717f"
GRID: Final = "#e7eaee"
BLUE: Final = "#2b6a99"
PALE: Final = "#a9c6dc"
ORANGE: Final = "#d9822b"
RED: Final = "#b3261e"
BAND: Final = "rgba(43, 106, 153, 0.16)"
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

Array = NDArray[Any]
Chart: TypeAlias = "dict[str, Any]"


def distribution(latency_ns: Array) -> Chart:
    """Histogram of the sorted latencies; the axis ends where few are left, and says how many lie beyond."""
    ms = latency_ns / 1e6
    end = min(ms[-1], ms[statistics.rank(len(ms), 0.99) - 1] * 1.6)
    counts, edges = np.histogram(ms, BINS, (ms[0], max(end, ms[0] + 0.001)))
    beyond = len(ms) - int(counts.sum())
    title = f"latency, ms ({beyond:,} of {len(ms):,} lie beyond this axis)" if beyond else "latency, ms"
    bars = {"type": "bar", "x": _light((edges[1:] + edges[:-1]) / 2), "y": counts.tolist(), "marker": {"color": PALE}}
    marks = {name: statistics.nearest_rank(ms, statistics.PERCENTILES[name]) for name in ("p50", "p95", "p99")}
    given = [(name, value) for name, value in marks.items() if value is not None]
    line = {"color": INK, "width": 1, "dash": "dot"}
    layout = _layout(300, xaxis=_axis(title), yaxis=_axis("requests"), bargap=0.06)
    layout["shapes"] = [
        {"type": "line", "x0": value, "x1": value, "y0": 0, "y1": 1, "yref": "paper", "line": line}
        for _, value in given
    ]
    # Labels of neighbours that lie close would run into each other: each is a step lower.
    layout["annotations"] = [
        {"x": value, "y": 1 - 0.09 * step, "yref": "paper", "text": f"{name} {display.figure(value)}"}
        | {"showarrow": False, "xanchor": "left", "xshift": 4}
        for step, (name, value) in enumerate(given)
    ]
    return {"data": [bars | {"hovertemplate": "%{x:.3g} ms: %{y:,}<extra></extra>"}], "layout": layout}


def percentile_curve(latency_ns: Array) -> Chart:
    """Sorted latency over its percentile on a scale of nines, with the confidence band of each point."""
    n = len(latency_ns)
    nines = np.linspace(0, np.log10(n), 160)
    p = 1 - 10**-nines
    tail = (1 - statistics.CONFIDENCE) / 2
    ranks = (np.ceil(p * n + 1e-9), binom.ppf(tail, n, p), binom.ppf(1 - tail, n, p) + 1)
    curve, low, high = (_light(latency_ns[np.clip(rank, 1, n).astype(np.int64) - 1] / 1e6) for rank in ranks)
    x = _light(nines)
    unseen = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    shown = {"mode": "lines", "line": {"color": BLUE, "width": 2}, "customdata": (p * 100).tolist()}
    ticks = [(count, f"{100 - 100 / 10**count:.5g}") for count in range(1, 8) if 10**count <= n]
    ticks = [(np.log10(2), "50"), *ticks] if n > 1 else []
    axis = _axis("percentile", tickvals=[float(at) for at, _ in ticks], ticktext=[text for _, text in ticks])
    return {
        "data": [
            {"x": x, "y": low, **unseen},
            {"x": x, "y": high, "fill": "tonexty", "fillcolor": BAND, **unseen},
            {"x": x, "y": curve, **shown, "hovertemplate": "%{customdata:.5g} %: %{y:.3g} ms<extra></extra>"},
        ],
        "layout": _layout(300, xaxis=axis, yaxis=_axis("latency, ms", rangemode="tozero")),
    }


def over_time(records: Records, window: Window, generator: Mapping[str, Array]) -> Chart:
    """Throughput, latency and the busiest worker's CPU along the run; what lies outside the window is shaded.

    A point stands for a block of a second, or longer so that there are at most BLOCKS; its percentiles are the block's.
    """
    block_ns = max(1, -(-window.end // (BLOCKS * 10**9))) * 10**9
    run = records.sent_ns >= 0
    last = max(window.end, int(records.received_ns[run].max(initial=0))) / 1e9
    shade = {
        "type": "rect",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "fillcolor": SHADE,
        "line": {"width": 0},
        "layer": "below",
    }
    outside = [(0, window.start / 1e9), (window.end / 1e9, last)]
    layout = _layout(
        520,
        xaxis=_axis(f"seconds from T0; a point is {block_ns // 10**9} s", range=[0, last], anchor="y3"),
        yaxis=_axis("answers / s", rangemode="tozero", domain=[0.72, 1]),
        yaxis2=_axis("latency, ms", rangemode="tozero", domain=[0.28, 0.66]),
        yaxis3=_axis("CPU, %", rangemode="tozero", domain=[0, 0.22]),
        shapes=[{**shade, "x0": start, "x1": end} for start, end in outside if end > start],
        hovermode="x unified",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    data = [
        *_throughput(records, run, block_ns, window),
        *_latency(records, run, block_ns),
        *_cpu(generator, block_ns),
    ]
    return {"data": data, "layout": layout}


def witnesses(run: Mapping[str, Any]) -> Chart:
    """Mean, p50 and p99 as each witness saw them; a percentile of the server is the range of its histogram bucket."""
    seen = {name: witness["latency_ms"] for name, witness in reversed(run["witnesses"].items()) if witness}
    data: list[dict[str, Any]] = []
    for metric, symbol, color in (("mean", "line-ns", INK), ("p50", "circle", BLUE), ("p99", "diamond", ORANGE)):
        points = {name: latency[metric] for name, latency in seen.items() if isinstance(latency[metric], float)}
        ranges = {name: latency[metric] for name, latency in seen.items() if isinstance(latency[metric], list)}
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
    layout = _layout(
        230,
        xaxis=_axis("latency, ms", rangemode="tozero"),
        yaxis=_axis(None, categoryorder="array", categoryarray=list(seen)),
        showlegend=True,
        legend={"orientation": "h", "y": 1.25, "x": 0},
    )
    return {"data": data, "layout": layout}


def time_spent(runs: Sequence[Mapping[str, Any]]) -> Chart:
    """A bar a run: the parts that its mean latency is made of."""
    names = [run.get("name", "") for run in runs]
    data = []
    widest = max(sum(part or 0.0 for part in run["breakdown_ms"].values()) for run in runs)
    for part, color in PARTS.items():
        values = [max(0.0, run["breakdown_ms"][part] or 0.0) for run in runs]
        texts = {
            "text": [display.figure(value) if value > 0.05 * widest else "" for value in values],
            "textposition": "inside",
            "textangle": 0,
        }
        inside = {"insidetextanchor": "middle", "textfont": {"color": "white", "size": 12}, "constraintext": "none"}
        bars = {"type": "bar", "orientation": "h", "x": values, "y": names, "marker": {"color": color}}
        data.append({**bars, **texts, **inside, "name": display.PARTS[part], "hovertemplate": "%{x:.3g} ms"})
    height = 150 + 26 * (len(runs) - 1)
    layout = _layout(
        height,
        xaxis=_axis("mean latency, ms"),
        yaxis=_axis(None, autorange="reversed", showticklabels=len(runs) > 1),
        barmode="stack",
        bargap=0.3,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1 + 15 / height, "yanchor": "bottom", "traceorder": "normal"},
        uniformtext={"minsize": 10, "mode": "hide"},
    )
    layout["margin"]["t"] = 50
    return {"data": data, "layout": layout}


def overview(runs: Sequence[Mapping[str, Any]]) -> Chart:
    """Latency over throughput: a run has its p50 and its p99 (or p95) on one vertical line, coloured by its verdict."""
    shown = [run for run in runs if run["throughput_rps"] is not None and run["latency_ms"]["p50"] is not None]
    high = "p99" if all(run["latency_ms"]["p99"] is not None for run in shown) else "p95"
    labelled: set[str] = set()
    data = []
    for run in shown:
        # Repeats lie on top of each other: the first bears the name.
        name, spec = str(run["name"]), json.dumps(run["spec"], sort_keys=True)
        label = "" if spec in labelled else name
        labelled.add(spec)
        marker = {"symbol": ["circle", "diamond"], "size": 9, "color": VERDICTS[run["verdict"]]}
        data.append(
            {"x": [run["throughput_rps"]] * 2, "y": [run["latency_ms"]["p50"], run["latency_ms"][high]], "name": name}
            | {"mode": "lines+markers+text", "text": ["", label], "textposition": "top center", "marker": marker}
            | {"line": {"color": PALE, "width": 1}, "hovertemplate": "%{x:,.1f} /s, %{y:.3g} ms"}
        )
    layout = _layout(
        400,
        xaxis=_axis("throughput, answers / s", rangemode="tozero"),
        yaxis=_axis(f"latency, ms: p50 (dot) and {high} (diamond)", rangemode="tozero"),
    )
    return {"data": data, "layout": layout}


def _throughput(records: Records, run: Array, block_ns: int, window: Window) -> list[dict[str, Any]]:
    """Answers per second by the time they came, whole blocks only; failed and wrong ones in red where there are any."""
    whole = window.end // block_ns
    at = _light((np.arange(whole) + 0.5) * block_ns / 1e9)
    lines = []
    for rows, name, color in ((records.good, "good answers", BLUE), (~records.good, "failed or wrong", RED)):
        came = records.received_ns[run & rows & (records.received_ns < whole * block_ns)] // block_ns
        if name == "good answers" or len(came):
            rate = np.bincount(came, minlength=whole) / (block_ns / 1e9)
            lines.append(
                {"x": at, "y": _light(rate), "name": name, "mode": "lines", "line": {"color": color, "width": 2}}
            )
    return lines


def _latency(records: Records, run: Array, block_ns: int) -> list[dict[str, Any]]:
    """Each block's p50, p95 and maximum over a sample of single requests, by the time they were sent."""
    good = run & records.good
    latency, sent = records.latency_ns(good), records.sent_ns[good]
    keep = slice(None, None, -(-len(sent) // DOTS) or 1)
    dots = {"x": _light(sent[keep] / 1e9), "y": _light(latency[keep] / 1e6), "marker": {"size": 3, "color": PALE}}
    lines = [{**dots, "yaxis": "y2", "mode": "markers", "hoverinfo": "skip", "name": "sampled requests"}]
    for p, name, color, dash in (
        (0.5, "p50", BLUE, "solid"),
        (0.95, "p95", ORANGE, "solid"),
        (1, "slowest", QUIET, "dot"),
    ):
        blocks, ns = statistics.by_block(latency, sent // block_ns, p)
        points = {"x": _light((blocks + 0.5) * block_ns / 1e9), "y": _light(ns / 1e6)}
        style = {"color": color, "width": 1 if dash == "dot" else 2, "dash": dash}
        lines.append({**points, "yaxis": "y2", "mode": "lines", "name": name, "line": style})
    return lines


def _cpu(generator: Mapping[str, Array], block_ns: int) -> list[dict[str, Any]]:
    """The busiest worker's reading in each block."""
    if not len(generator["time_s"]):
        return []
    block_s = block_ns / 1e9
    blocks, slot = np.unique(np.ceil(generator["time_s"] / block_s), return_inverse=True)
    busiest = np.zeros(len(blocks))
    np.maximum.at(busiest, slot, generator["cpu_percent"])
    points = {"x": _light(blocks * block_s), "y": _light(busiest), "yaxis": "y3", "mode": "lines"}
    return [{**points, "name": "busiest worker's CPU", "line": {"color": QUIET, "width": 2}}]


def _layout(height_px: int, **more: Any) -> dict[str, Any]:
    """The one look of all charts; `more` goes on top."""
    return {
        "height": height_px,
        "margin": {"l": 56, "r": 16, "t": 24, "b": 44},
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": QUIET},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        **more,
    }


def _axis(title: str | None, **more: Any) -> dict[str, Any]:
    colors = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID}
    return {**colors, "title": {"text": title, "standoff": 8}, "automargin": True, "fixedrange": True, **more}


def _light(values: Array) -> list[float]:
    """Five digits are plenty for a chart, and a third of the bytes."""
    return [float(f"{value:.5g}") for value in values.tolist()]
