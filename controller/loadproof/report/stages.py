"""The waterfall: sampled requests as bars, stage by stage, from the fastest to the slowest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from loadproof.analyse.waterfall import Sampled
from loadproof.report.style import Chart, axis, layout, light

# What lies between one stamp and the next; without a balancer's row only the first and the last of the client's.
STAGES: Final = (
    ("late", "#8a5a83"),
    ("client to balancer", "#2b6a99"),
    ("balancer and server, until headers", "#4f9a77"),
    ("headers to end", "#e3a857"),
    ("balancer to client", "#7fb0cf"),
)
ALONE: Final = (("late", "#8a5a83"), ("sent to received", "#2b6a99"))


def waterfall(sample: Sequence[Sampled], height_px: int, since: str = "sent") -> Chart:
    """A bar a request, from when it was `since` ("sent" or "due") to its answer; stages that none has are left out."""
    joined = any(len(one["stamps_ms"]) > 2 for one in sample)
    names = [_label(one["percentile"], number, len(sample)) for number, one in enumerate(sample)]
    data = []
    for number, (stage, color) in enumerate(STAGES if joined else ALONE):
        lengths = np.array([_length(one["stamps_ms"], number, joined) for one in sample])
        if lengths.any():
            bars = {"type": "bar", "orientation": "h", "y": list(range(len(sample))), "x": light(lengths)}
            look = {"marker": {"color": color}, "name": stage, "customdata": [one["id"] for one in sample]}
            data.append({**bars, **look, "hovertemplate": f"{stage}: %{{x:.3g}} ms<br>%{{customdata}}<extra></extra>"})
    ticks = list(range(0, len(sample), max(1, len(sample) // 13)))
    if ticks and ticks[-1] != len(sample) - 1:
        ticks[-1] = len(sample) - 1
    rows = axis(None, tickvals=ticks, ticktext=[names[tick] for tick in ticks], autorange="reversed", showgrid=False)
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    look = layout(height_px, xaxis=axis(f"ms since it was {since}"), yaxis=rows, barmode="stack", bargap=0.25)
    return {"data": data, "layout": look | {"showlegend": True, "legend": legend}}


def _length(stamps: Sequence[float], stage: int, joined: bool) -> float:
    """How long a stage took; a request without the balancer's stamps spends all its time in the middle one."""
    if joined and len(stamps) == 2:
        stamps = [stamps[0], stamps[0], stamps[1], stamps[1], stamps[1]]
    return stamps[stage] - (stamps[stage - 1] if stage else 0.0)


def _label(percentile: float, number: int, count: int) -> str:
    if number in (0, count - 1):
        return "slowest" if number else "fastest"
    return f"p{percentile:.4g}"
