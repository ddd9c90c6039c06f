"""The chart along the run: answers, latency, requests in flight and the generator's CPU, second by second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from loadproof.analyse import statistics, steady
from loadproof.analyse.population import Records, Window
from loadproof.report.style import (
    BLUE,
    ORANGE,
    PALE,
    PURPLE,
    QUIET,
    RED,
    SHADE,
    Array,
    Chart,
    Trace,
    axis,
    layout,
    light,
)

BLOCKS: Final = 300
DOTS: Final = 800


def over_time(records: Records, window: Window, generator: Mapping[str, Array], height_px: int) -> Chart:
    """What lies outside the window is shaded.

    A point stands for a block of a second, or longer so that there are at most BLOCKS; its percentiles are the block's.
    """
    block_ns = max(1, -(-window.end // (BLOCKS * 10**9))) * 10**9
    run = (records.sent_ns >= 0) & ~records.unsent
    last = max(window.end, int(records.received_ns[run].max(initial=0))) / 1e9
    outside = [(0, window.start / 1e9), (window.end / 1e9, last)]
    look = layout(
        height_px,
        xaxis=axis(f"seconds from T0; a point is {block_ns // 10**9} s", range=[0, last], anchor="y4"),
        yaxis=axis("answers / s", rangemode="tozero", domain=[0.77, 1]),
        yaxis2=axis("latency, ms", rangemode="tozero", domain=[0.40, 0.72]),
        yaxis3=axis("in flight", rangemode="tozero", domain=[0.20, 0.35]),
        yaxis4=axis("CPU, %", rangemode="tozero", domain=[0, 0.15]),
        shapes=[_shade(start, end) for start, end in outside if end > start],
        hovermode="x unified",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    data = [
        *_throughput(records, run, block_ns, window),
        *_latency(records, run, block_ns),
        *_in_flight(records, block_ns, last),
        *_cpu(generator, block_ns),
    ]
    return {"data": data, "layout": look}


def _shade(start_s: float, end_s: float) -> Trace:
    box = {"type": "rect", "yref": "paper", "x0": start_s, "x1": end_s, "y0": 0, "y1": 1}
    return {**box, "fillcolor": SHADE, "line": {"width": 0}, "layer": "below"}


def _throughput(records: Records, run: Array, block_ns: int, window: Window) -> list[Trace]:
    """Per second, whole blocks only: what was due in an open loop, good answers when they came, and others if any."""
    whole = window.end // block_ns
    at = light((np.arange(whole) + 0.5) * block_ns / 1e9)
    counted = [("good answers", BLUE, "solid", records.received_ns[run & records.good])]
    failed = records.received_ns[run & ~records.good]
    if len(failed):
        counted.append(("failed or wrong", RED, "solid", failed))
    if records.is_open:
        counted.insert(0, ("offered", QUIET, "dot", records.planned_ns[records.planned_ns >= 0]))
    lines = []
    for name, color, dash, time_ns in counted:
        rate = np.bincount(time_ns[time_ns < whole * block_ns] // block_ns, minlength=whole) / (block_ns / 1e9)
        style = {"color": color, "width": 2, "dash": dash}
        lines.append({"x": at, "y": light(rate), "name": name, "mode": "lines", "line": style})
    return lines


def _latency(records: Records, run: Array, block_ns: int) -> list[Trace]:
    """Each block's p50, p95 and maximum over a sample of single requests, by the time they were due."""
    good = run & records.good
    latency, due = records.latency_ns(good), records.planned_ns[good]
    keep = slice(None, None, -(-len(due) // DOTS) or 1)
    dots = {"x": light(due[keep] / 1e9), "y": light(latency[keep] / 1e6), "marker": {"size": 3, "color": PALE}}
    lines = [{**dots, "yaxis": "y2", "mode": "markers", "hoverinfo": "skip", "name": "sampled requests"}]
    blocks, (p50, p95, slowest) = statistics.by_block(latency, due // block_ns, (0.5, 0.95, 1))
    drawn = [("p50", blocks, p50, BLUE, "solid"), ("p95", blocks, p95, ORANGE, "solid")]
    drawn.append(("slowest", blocks, slowest, QUIET, "dot"))
    if records.is_open:
        late_blocks, (late,) = statistics.by_block(
            records.lateness_ns(run), records.planned_ns[run] // block_ns, (0.99,)
        )
        drawn.append(("p99 of lateness", late_blocks, late, PURPLE, "dash"))
    for name, at, ns, color, dash in drawn:
        points = {"x": light((at + 0.5) * block_ns / 1e9), "y": light(ns / 1e6)}
        style = {"color": color, "width": 1 if dash == "dot" else 2, "dash": dash}
        lines.append({**points, "yaxis": "y2", "mode": "lines", "name": name, "line": style})
    return lines


def _in_flight(records: Records, block_ns: int, last_s: float) -> list[Trace]:
    blocks = int(-(-last_s * 1e9 // block_ns))
    mean = steady.in_flight(records, 0, block_ns, blocks)
    points = {"x": light((np.arange(blocks) + 0.5) * block_ns / 1e9), "y": light(mean), "yaxis": "y3", "mode": "lines"}
    return [{**points, "name": "in flight", "line": {"color": BLUE, "width": 2}, "showlegend": False}]


def _cpu(generator: Mapping[str, Array], block_ns: int) -> list[Trace]:
    """The busiest worker's reading in each block."""
    if not len(generator["time_s"]):
        return []
    block_s = block_ns / 1e9
    blocks, slot = np.unique(np.ceil(generator["time_s"] / block_s), return_inverse=True)
    busiest = np.zeros(len(blocks))
    np.maximum.at(busiest, slot, generator["cpu_percent"])
    points = {"x": light(blocks * block_s), "y": light(busiest), "yaxis": "y4", "mode": "lines"}
    return [{**points, "name": "busiest worker's CPU", "line": {"color": QUIET, "width": 2}}]
