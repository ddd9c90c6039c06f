"""One metric over many campaigns: for each spec, what was measured when, with its spread and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadproof import analyse, escapes
from loadproof.analyse import statistics
from loadproof.analyse.sweet_spot import plain_name
from loadproof.compare import intervals, sides, texts
from loadproof.compare.comparison import METRICS, REPEATS_MIN, Change
from loadproof.compare.sides import Measured
from loadproof.compare.terminal import STYLES
from loadproof.errors import LoadproofError, UsageError
from loadproof.report import display

BARS: Final = "▁▂▃▄▅▆▇█"
PLOT_WIDTH: Final = range(12, 49)  # of the small chart beside the figures


class Point(NamedTuple):
    """What one campaign measured of one spec: a value a repeat, where it is valid and has requests enough."""

    created: str
    campaign: str
    runs: int
    values: Sequence[float]

    @property
    def middle(self) -> float | None:
        return float(np.median(self.values)) if self.values else None


class Series(NamedTuple):
    """The points of one spec, by time."""

    name: str
    points: Sequence[Point]


def history(directory: Path, metric: str) -> tuple[list[Series], list[str]]:
    """Every spec that some campaign below `directory` ran, and what is wrong with the campaigns that cannot be read."""
    if metric not in METRICS:
        raise UsageError(f"--metric {metric}: there are: {', '.join(METRICS)}")
    read, broken = [], []
    for path in sorted(directory.rglob("campaign.json")):
        try:
            read.append((path.parent, sides.read(path.parent)))
        except LoadproofError as error:
            broken.append(str(error))
    if not read:
        raise UsageError(f"{directory}: no readable campaign below it; give a directory that holds some")
    found: dict[str, tuple[str, list[Point]]] = {}
    for path, side in sorted(read, key=lambda one: one[1].created):
        for key, runs in sides.by_spec(side).items():
            point = Point(side.created[0], str(path.relative_to(directory)), len(runs), _values(runs, metric))
            found.setdefault(key, (plain_name(runs[0].summary.name), []))[1].append(point)
    return [Series(name, points) for name, points in found.values()], broken


def show(series: Sequence[Series], metric: str, console: Console) -> None:
    """A table for each series; the chart's columns take what the terminal has left."""
    for one in series:
        console.print(
            Text.assemble((escapes.terminal(one.name), "bold"), f"  {metric}  ", (_sparkline(one.points), "cyan"))
        )
        console.print(_table(one.points, metric, console.width))
        console.print()


def _table(points: Sequence[Point], metric: str, width: int) -> Table:
    before = [next((one for one in reversed(points[:at]) if one.values), None) for at in range(len(points))]
    changes = [_change(*pair, metric) for pair in zip(before, points, strict=True)]
    evidence = [change.evidence if change and change.ratio else "no evidence" for change in changes]
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in ("when", "repeats", "median", "change"):
        table.add_column(name, justify="left" if name == "when" else "right", no_wrap=True)
    words_width = max(0 if word == "no evidence" else len(word) + 1 for word in evidence)
    if words_width:
        table.add_column("", no_wrap=True)
    values = [value for point in points for value in point.values]
    room = min(width - 46 - words_width, PLOT_WIDTH[-1])
    charted = bool(values) and room in PLOT_WIDTH
    if charted:
        table.add_column(_scale(min(values), max(values), room), no_wrap=True)
    for point, change, word in zip(points, changes, evidence, strict=True):
        row = [
            Text(escapes.terminal(point.created.replace("T", " ")[:16])),
            Text(str(len(point.values)), "" if len(point.values) == point.runs else "red"),
            Text(display.figure(point.middle), "bold"),
            Text(texts.change(change) if change else ""),
        ]
        row += [Text("" if word == "no evidence" else word, STYLES[word])] if words_width else []
        row += [_plot(point.values, min(values), max(values), room)] if charted else []
        table.add_row(*row)
    return table


def _scale(low: float, high: float, width: int) -> str:
    ends = display.figure(low), display.figure(high)
    return f"{ends[0]}{' ' * max(1, width - len(ends[0]) - len(ends[1]))}{ends[1]}"


def _change(before: Point | None, point: Point, metric: str) -> Change | None:
    """Against the campaign before; with enough repeats on both sides it says whether there is evidence."""
    if before is None or not point.values:
        return None
    enough = min(len(before.values), len(point.values)) >= REPEATS_MIN
    ratio = intervals.over_repeats(before.values, point.values, statistics.CONFIDENCE) if enough else None
    return Change(metric, before.middle, point.middle, ratio)


def _plot(values: Sequence[float], low: float, high: float, width: int) -> Text:
    """`  ├──●──┤   `: from the least to the most, the median marked."""
    if not values:
        return Text("")
    scale = (width - 1) / (high - low) if high > low else 0.0
    first, middle, last = (round((value - low) * scale) for value in (min(values), np.median(values), max(values)))
    cells = [" "] * width
    cells[first : last + 1] = "─" * (last + 1 - first)
    cells[first], cells[last] = "├", "┤"
    cells[middle] = "●"
    return Text("".join(cells).rstrip(), "cyan")


def _sparkline(points: Sequence[Point]) -> str:
    middles = [middle for point in points if (middle := point.middle) is not None]
    if len(middles) < 2:
        return ""
    scale = (len(BARS) - 1) / ((max(middles) - min(middles)) or 1)
    return "".join(BARS[round((middle - min(middles)) * scale)] for middle in middles)


def _values(runs: Sequence[Measured], metric: str) -> list[float]:
    values = [analyse.metrics(run.summary)[metric] for run in runs if run.is_valid]
    return [value for value in values if value is not None]
