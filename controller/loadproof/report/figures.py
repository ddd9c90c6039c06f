"""The report's charts, a row each: where it stands, what is said above it, how high it is and what draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Generic, Literal, NamedTuple, TypeVar, get_args

from loadproof import rundir
from loadproof.analyse import RunSummary, Summary
from loadproof.analyse.population import Bools, Records, Window
from loadproof.analyse.waterfall import waterfall
from loadproof.report import along, display, plots, spot, stages
from loadproof.report.style import Array, Chart

Of = TypeVar("Of")
# Where the template puts it, among what is no chart. Of a run: below its headline, beside the witnesses' table, below
# the accounts, at the end. Of a campaign: in its answer, below the table of all runs.
Place = Literal["headline", "witnesses", "accounts", "end", "answer", "runs"]


@dataclass(frozen=True)
class Figure(Generic[Of]):
    """A row. `draw` gets the height in px, and returns None where there is nothing to show.

    Neighbours with one `heading` stand side by side below it; without one the template has a heading already.
    """

    id: str
    place: Place
    heading: str
    caption: str | Callable[[Of], str]
    height_px: int
    draw: Callable[[Of, int], Chart | None]


class Drawn(NamedTuple):
    """A figure for the template; its chart goes to report.js under its id."""

    id: str
    caption: str
    height_px: int
    chart: Chart


class Group(NamedTuple):
    """Figures that stand side by side, below one heading."""

    heading: str
    figures: Sequence[Drawn]


@dataclass(frozen=True)
class RunData:
    """What a run's charts are drawn from; only a run with good answers has any."""

    run: RunSummary
    path: Path

    @cached_property
    def records(self) -> Records:
        return Records(self.path, is_open=self.run.is_open)

    @cached_property
    def good(self) -> Bools:
        return self.records.measured & self.records.good

    @cached_property
    def latency_ns(self) -> Array:
        """Of the window's good answers, sorted."""
        latency_ns = self.records.latency_ns(self.good)
        latency_ns.sort()
        return latency_ns


def _along(data: RunData, height_px: int) -> Chart:
    table = rundir.read_generator(data.path)
    generator = {name: table[name].to_numpy() for name in ("time_s", "cpu_percent")}
    window = Window.of(data.run.window.warmup_s or 0, data.run.window.duration_s or 0)
    return along.over_time(data.records, window, generator, height_px)


def _stages(data: RunData, height_px: int) -> Chart:
    t0_epoch_us = (rundir.read_run(data.path) or {}).get("t0_epoch_us")
    sample = waterfall(data.path, data.records, data.good, t0_epoch_us)
    return stages.waterfall(sample, height_px, "due" if data.records.is_open else "sent")


def _spent(runs: Sequence[RunSummary], height_px: int) -> Chart | None:
    explained = [run for run in runs if run.breakdown_ms.client_network is not None]
    return plots.time_spent(explained, height_px) if explained else None


def _stages_caption(data: RunData) -> str:
    rough = (
        ", with the balancer's stamps; its clock is read once for all that it does at a time, so that the shortest "
        "stages are rough"
    )
    stamped = rough if data.run.witnesses.balancer else ""
    return f"Good answers of the window from the fastest to the slowest{stamped}."


def _overview(summary: Summary, height_px: int) -> Chart | None:
    shown = summary.sweet_spot is not None and spot.dots(summary.sweet_spot)  # the same runs, with more to say
    has_figures = any(run.latency_ms.p50 is not None for run in summary.runs)
    return plots.overview(summary.runs, height_px) if has_figures and not shown else None


def _of_spot(draw: Callable[..., Chart | None]) -> Callable[[Summary, int], Chart | None]:
    return lambda summary, height_px: draw(summary.sweet_spot, height_px) if summary.sweet_spot else None


def _heat_caption(summary: Summary) -> str:
    metric = display.percentile(summary.sweet_spot.metric) if summary.sweet_spot else ""
    return f"Streams and batch: the most inferences a second, and the upper bound of {metric}"


OF_A_RUN: Final[Sequence[Figure[RunData]]] = (
    Figure(
        "latency",
        "headline",
        "Latency distribution",
        "How many requests took how long",
        300,
        lambda data, height_px: plots.distribution(data.latency_ns, height_px),
    ),
    Figure(
        "curve",
        "headline",
        "Latency distribution",
        "Every percentile, with its confidence band",
        300,
        lambda data, height_px: plots.percentile_curve(data.latency_ns, height_px),
    ),
    Figure(
        "time",
        "headline",
        "Along the run",
        "Warm-up and drain are shaded: they are shown and not measured. A line's percentile is of that block alone.",
        640,
        _along,
    ),
    Figure(
        "witnesses",
        "witnesses",
        "",
        "",
        230,
        lambda data, height_px: plots.witnesses(data.run, height_px),
    ),
    Figure(
        "spent",
        "accounts",
        "Where the time goes",
        lambda data: f"The mean request of the window, {display.figure(data.run.latency_ms.mean)} ms at the client",
        150,
        lambda data, height_px: _spent([data.run], height_px),
    ),
    Figure("stages", "end", "Single requests", _stages_caption, 560, _stages),
)
OF_A_CAMPAIGN: Final[Sequence[Figure[Summary]]] = (
    Figure("spot", "answer", "", "", 380, _of_spot(spot.throughput_by_latency)),
    Figure("heat", "answer", "", _heat_caption, 180, _of_spot(spot.streams_by_batch)),
    Figure("overview", "runs", "Throughput and latency", "", 400, _overview),
    Figure(
        "spent",
        "runs",
        "Where the time goes",
        "The mean request of each run, in parts",
        150,
        lambda summary, height_px: _spent(summary.runs, height_px),
    ),
)


def of_run(directory: Path, run: RunSummary, index: int) -> dict[Place, list[Group]]:
    """The charts of the campaign's run number `index`, by their place; none for a run without good answers."""
    data = RunData(run, directory / run.directory)
    return _drawn(OF_A_RUN if data.good.any() else (), data, f"-{index}")


def of_campaign(summary: Summary) -> dict[Place, list[Group]]:
    """The charts of all runs together, by their place; a campaign of one run has none."""
    return _drawn(OF_A_CAMPAIGN if len(summary.runs) > 1 else (), summary)


def charts(places: dict[Place, list[Group]]) -> dict[str, Chart]:
    """Every chart by its id."""
    return {one.id: one.chart for groups in places.values() for group in groups for one in group.figures}


def _drawn(rows: Sequence[Figure[Of]], data: Of, suffix: str = "") -> dict[Place, list[Group]]:
    places: dict[Place, list[Group]] = {place: [] for place in get_args(Place)}
    for row in rows:
        if (chart := row.draw(data, row.height_px)) is None:
            continue
        caption = row.caption if isinstance(row.caption, str) else row.caption(data)
        one = Drawn(f"{row.id}{suffix}", caption, chart["layout"]["height"], chart)
        groups = places[row.place]
        if row.heading and groups and groups[-1].heading == row.heading:
            groups[-1] = Group(row.heading, [*groups[-1].figures, one])
        else:
            groups.append(Group(row.heading, [one]))
    return places
