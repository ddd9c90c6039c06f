"""Charts of a campaign's configurations: throughput against latency with the sweet spot, and streams x batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from loadproof.analyse import sweet_spot
from loadproof.analyse.schema import Configuration, SweetSpot
from loadproof.report import display
from loadproof.report.style import BLUE, INK, ORANGE, PALE, QUIET, RED, Chart, Trace, axis, layout

Box = tuple[float, float, float, float]
PLOT_PX: Final = 900, 310  # about what is within the axes, on a screen
NAMED_MAX, LETTERS_MAX = 12, 30  # names of more configurations, or longer ones, would lie on each other
STREAMS, BATCH = "server.streams", "load.batch"
MARK: Final = "sweet spot"  # report.js moves the trace of this name in one chart, and the first shape of both


class Dot(NamedTuple):
    """A configuration whose throughput and upper bound are known."""

    configuration: Configuration
    rate_ips: float
    high_ms: float

    @property
    def name(self) -> str:
        return self.configuration.name


def dots(spot: SweetSpot) -> list[Dot]:
    """The configurations that have a place in the chart."""
    return [
        Dot(one, one.throughput_ips, one.latency_high_ms)
        for one in spot.configurations
        if one.throughput_ips is not None and one.latency_high_ms is not None
    ]


def movable(spot: SweetSpot) -> dict[str, object]:
    """What report.js needs to choose again: the limit, where it can go, and each configuration's place in the charts.

    Limits are in ms, from 0 to `top`.
    """
    shown, grid = dots(spot), _Grid(spot)
    top = _top(spot, shown)
    return {
        "percentile": display.percentile(spot.metric),
        "limit": spot.limit,
        "of": len(spot.configurations),
        "top": top,
        "step": 10 ** (len(f"{top:.0f}") - 4),  # some thousand steps
        "rows": [
            {
                "name": one.name,
                "eligible": sweet_spot.keeps(one.configuration, None),
                "high": one.high_ms,
                "rate": one.rate_ips,
                "texts": [display.figure(value) for value in (one.rate_ips, one.configuration.latency_ms, one.high_ms)],
                "spot": [one.rate_ips, one.high_ms],
                "heat": grid.frame(one.configuration),
            }
            for one in shown
        ],
    }


def throughput_by_latency(spot: SweetSpot, height_px: int) -> Chart | None:
    """A dot is the upper bound that has to keep the limit; the line below it ends at the percentile itself.

    None where no configuration has a latency.
    """
    if not (shown := dots(spot)):
        return None
    name = display.percentile(spot.metric)
    front = sorted((one for one in shown if one.configuration.front), key=lambda one: one.rate_ips)
    chosen = sweet_spot.best([one.configuration for one in shown], spot.limit)
    few = len(shown) <= NAMED_MAX and all(len(one.name) <= LETTERS_MAX for one in shown)
    end, top = 1.06 * max(one.rate_ips for one in shown), _top(spot, shown)
    sides = _sides(shown, end, top) if few else {}
    data: list[Trace] = [
        {"x": [one.rate_ips for one in front], "y": [one.high_ms for one in front]}
        | {"mode": "lines", "name": "Pareto front", "line": {"color": PALE, "width": 2, "shape": "vh"}}
        | {"hoverinfo": "skip"}
    ]
    for title, group, symbol in (
        ("configurations", [one for one in shown if one.configuration.eligible], "circle"),
        ("INVALID, or breaks another limit", [one for one in shown if not one.configuration.eligible], "x-thin-open"),
    ):
        if group:
            data.append(_dots(title, group, symbol, sides, name))
    place = [chosen.throughput_ips, chosen.latency_high_ms] if chosen else []
    ring = {"symbol": "circle-open", "size": 22, "color": ORANGE, "line": {"width": 3}}
    data.append({"x": place[:1], "y": place[1:], "mode": "markers", "name": MARK, "marker": ring, "hoverinfo": "skip"})
    look = layout(
        height_px,
        xaxis=axis("throughput, inferences / s", range=[0, end]),
        yaxis=axis(f"{name} latency, ms, and its upper bound (dot)", range=[0, top]),
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    look["shapes"] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": spot.limit or 0, "y1": spot.limit or 0}
        | {"line": {"color": RED, "width": 1.5, "dash": "dash"}, "visible": spot.limit is not None}
    ]
    return {"data": data, "layout": look}


def _top(spot: SweetSpot, shown: Sequence[Dot]) -> float:
    """The end of the latency's axis, in ms: over the slowest and the limit, and a round number."""
    return float(f"{1.1 * max([spot.limit or 0.0, *(one.high_ms for one in shown)]):.2g}")


def _sides(shown: Sequence[Dot], end: float, top: float) -> dict[str, str]:
    """Where each name stands beside its dot: on no dot and on no other name, if there is such a place.

    Boxes are left, upper, right and lower, in px; a character of 11 px is about 6 wide.
    """
    centres = {one.name: (PLOT_PX[0] * one.rate_ips / end, PLOT_PX[1] * (1 - one.high_ms / top)) for one in shown}
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres.values()]
    sides = {}
    for name, (x, y) in centres.items():
        width = 6 * len(name) + 12
        inwards = ("left", "right") if x > PLOT_PX[0] / 2 else ("right", "left")
        places = {
            f"{vertical} {side}": (x - width * (side == "left"), y + down, x + width * (side == "right"), y + down + 14)
            for side in inwards
            for vertical, down in (("bottom", 5), ("top", -19))
        }
        free = [place for place, box in places.items() if not any(_overlap(box, other) for other in taken)]
        sides[name] = (free or list(places))[0]
        taken.append(places[sides[name]])
    return sides


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _dots(title: str, group: Sequence[Dot], symbol: str, sides: Mapping[str, str], name: str) -> Trace:
    middles = [one.configuration.latency_ms for one in group]
    names = [one.name for one in group]
    down = [one.high_ms - (middle or one.high_ms) for one, middle in zip(group, middles, strict=True)]
    return {
        "x": [one.rate_ips for one in group],
        "y": [one.high_ms for one in group],
        "error_y": {"type": "data", "symmetric": False, "array": [0] * len(group), "arrayminus": down}
        | {"color": BLUE, "thickness": 1.5, "width": 3},
        "mode": "markers+text",
        "text": [f"  {text}  " if text in sides else "" for text in names],
        "textposition": [sides.get(text, "bottom right") for text in names],
        "cliponaxis": False,
        "textfont": {"color": QUIET, "size": 11},
        "name": title,
        "marker": {"symbol": symbol, "size": 9, "color": BLUE},
        "customdata": [[text, display.figure(middle)] for text, middle in zip(names, middles, strict=True)],
        "hovertemplate": f"%{{customdata[0]}}<br>%{{x:,.1f}} /s, {name} %{{customdata[1]}} ms, "
        "bound %{y:.3g} ms<extra></extra>",
    }


def streams_by_batch(spot: SweetSpot, height_px: int) -> Chart | None:
    """Colour: the most throughput of the cell's configurations; in words with the bound of its percentile.

    None where streams or batch are the same in all configurations; `height_px` is the least height.
    """
    grid = _Grid(spot)
    if not grid.configurations or not dots(spot):
        return None
    cells: dict[tuple[float, float], Configuration] = {}
    for one in grid.configurations:
        place = grid.place(one)
        if place not in cells or _rate(one) > _rate(cells[place]):
            cells[place] = one
    shown = [[cells.get((stream, batch)) for batch in grid.batches] for stream in grid.streams]
    texts = [
        [
            ""
            if one is None
            else f"{display.figure(one.throughput_ips)} /s<br>{display.figure(one.latency_high_ms)} ms"
            for one in row
        ]
        for row in shown
    ]
    heat = (
        {"type": "heatmap", "z": [[one and one.throughput_ips for one in row] for row in shown], "text": texts}
        | {"x": [str(batch) for batch in grid.batches], "y": [str(stream) for stream in grid.streams]}
        | {"texttemplate": "%{text}", "colorscale": [[0, "#f3f7fa"], [1, "#7fb0cf"]], "showscale": False}
        | {"textfont": {"color": INK}, "hoverinfo": "skip", "xgap": 3, "ygap": 3}
    )
    look = layout(
        max(height_px, 80 + 64 * len(grid.streams)),
        xaxis=axis("batch", type="category", showgrid=False),
        yaxis=axis("streams", type="category", showgrid=False),
    )
    frame = grid.frame(sweet_spot.best(spot.configurations, spot.limit))
    look["shapes"] = [
        {"type": "rect", "name": MARK, "line": {"color": ORANGE, "width": 3}, **frame, "visible": bool(frame)}
    ]
    return {"data": [heat], "layout": look}


def _rate(one: Configuration) -> float:
    return one.throughput_ips or 0.0


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers, and then words."""
    return isinstance(value, str), value


class _Grid:
    """The heat map's configurations, none where streams or batch were not swept, and its columns and rows."""

    def __init__(self, spot: SweetSpot) -> None:
        self.configurations = [
            one
            for one in spot.configurations
            if one.throughput_ips is not None and None not in (one.settings.get(key) for key in (STREAMS, BATCH))
        ]
        places = [self.place(one) for one in self.configurations]
        self.streams, self.batches = (sorted({place[axis] for place in places}, key=_order) for axis in (0, 1))

    def place(self, one: Configuration) -> tuple[Any, Any]:
        """Streams and batch: numbers, or "none"."""
        return one.settings[STREAMS], one.settings[BATCH]

    def frame(self, one: Configuration | None) -> dict[str, float]:
        """The sides of a configuration's cell, which is 1 wide and high; none where it has none."""
        if one is None or one not in self.configurations:
            return {}
        streams, batch = self.place(one)
        x, y = self.batches.index(batch), self.streams.index(streams)
        return {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
