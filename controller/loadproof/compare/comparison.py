"""What two sides say about each other: each metric's ratio, and for one of them whether it is better or worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal

import numpy as np

from loadproof import analyse
from loadproof.analyse import statistics
from loadproof.analyse.population import Records, Window
from loadproof.compare import intervals, sides
from loadproof.compare.intervals import BLOCK_NS, Blocks, Interval
from loadproof.compare.sides import Difference, Match, Measured, Side
from loadproof.errors import UsageError

# Every metric that is compared, and whether more of it is better (1) or worse (-1).
METRICS: Final[Mapping[str, int]] = {
    "throughput_rps": 1,
    "mean_ms": -1,
    **{f"{name}_ms": -1 for name in statistics.PERCENTILES},
}
REPEATS_MIN: Final = 5  # a side; with fewer, seconds within the runs are the units

Evidence = Literal["better", "worse", "no evidence"]
Groups = tuple[Sequence[Measured], Sequence[Measured]]  # of before and after


@dataclass(frozen=True)
class Change:
    """One metric of runs of one spec; `ratio` is after / before, None where too little was measured."""

    metric: str
    before: float | None
    after: float | None
    ratio: Interval | None

    @property
    def evidence(self) -> Evidence:
        """What the interval excludes."""
        if self.ratio is None or self.ratio.low <= 1 <= self.ratio.high:
            return "no evidence"
        return "better" if (self.ratio.low > 1) == (METRICS[self.metric] > 0) else "worse"


@dataclass(frozen=True)
class Pair:
    """Runs of one spec on both sides: how many of each could be used, and how each metric changed."""

    name: str
    before: int
    after: int
    within: bool  # the units are seconds within the runs, not repeats
    primary: str
    changes: Mapping[str, Change]

    @property
    def verdict(self) -> Evidence:
        """Of the primary metric."""
        return self.changes[self.primary].evidence

    @property
    def is_sound(self) -> bool:
        """Both sides have a run whose figures can be trusted."""
        return self.before > 0 and self.after > 0


@dataclass(frozen=True)
class Comparison:
    """Two sides; `confidence` is that of each interval, so that all pairs of the primary metric hold together."""

    before: Side
    after: Side
    confidence: float
    pairs: Sequence[Pair]
    differences: Sequence[Difference]
    unmatched: tuple[Sequence[str], Sequence[str]]  # names of runs that only one side has
    left_out: Sequence[str]  # INVALID runs
    disturbed: Sequence[str]  # FLAGGED ones that are left out as well, because others had more of the machine
    flagged: Sequence[str]  # that are used


def compare(
    directories: Sequence[Path], metric: str | None = None, across: Sequence[str] = (), force: bool = False
) -> list[Comparison]:
    """The first directory beside each of the others.

    `metric` is the primary one; by default throughput_rps of a closed loop, p50_ms of an open one, whose throughput is
    what was offered. `across`: keys of the spec that may differ. Intervals are at CONFIDENCE for all pairs together
    (Bonferroni). Raises UsageError where the sides can't be compared: other machine or model (unless `force`), no
    run of one spec; RunDirectoryError where a directory is no campaign's.
    """
    if metric is not None and metric not in METRICS:
        raise UsageError(f"--metric {metric}: there are: {', '.join(METRICS)}")
    first, *others = [sides.read(directory) for directory in directories]
    for other in others:
        if not force:
            _refuse(first, other)
    matched = [sides.match(first, other, across) for other in others]
    confidence = 1 - (1 - statistics.CONFIDENCE) / sum(map(len, matched))
    return [_comparison(first, other, found, metric, confidence) for other, found in zip(others, matched, strict=True)]


def _comparison(
    before: Side, after: Side, matches: Sequence[Match], metric: str | None, confidence: float
) -> Comparison:
    matched = [[one.before for one in matches], [one.after for one in matches]]
    compared = [_compared(one) for one in matches]
    used = {run.path for groups in compared for group in groups for run in group}
    unused = {run.path for groups in matched for group in groups for run in group} - used

    def named(verdict: str, among: Set[Path]) -> list[str]:
        runs = [(side.name, run) for side in (before, after) for run in side.runs if run.path in among]
        return [f"{side}: {run.summary.name}" for side, run in runs if run.summary.verdict == verdict]

    return Comparison(
        before,
        after,
        confidence,
        pairs=[_pair(one, groups, metric, confidence) for one, groups in zip(matches, compared, strict=True)],
        differences=sides.differences(before, after),
        unmatched=(sides.unmatched(before, matched[0]), sides.unmatched(after, matched[1])),
        left_out=named("INVALID", unused),
        disturbed=named("FLAGGED", unused),
        flagged=named("FLAGGED", used),
    )


def _refuse(before: Side, after: Side) -> None:
    rows = [row for row in sides.differences(before, after) if row.essential]
    if rows:
        names = ", ".join(row.name.replace("_", " ") for row in rows)
        raise UsageError(
            f"{before.name} and {after.name} were not measured on the same: {names} differ"
            f"{'s' * (len(rows) == 1)}; --force compares them all the same",
            "\n".join(f"  {row.name}: {row.before} | {row.after}" for row in rows),
        )


def _compared(match: Match) -> Groups:
    """What of both sides is compared: valid runs, and of these only the undisturbed where both have enough of them.

    Five repeats of which a burst of others' load hit one have bounds so wide that a tenth is lost in them. It can be
    left out because what shows it, the machine's counters, says nothing of how fast the server was.
    """
    valid = [[run for run in group if run.is_valid] for group in (match.before, match.after)]
    calm = [[run for run in group if not sides.is_disturbed(run.summary)] for group in valid]
    before, after = calm if min(map(len, calm)) >= REPEATS_MIN else valid
    return before, after


def _pair(match: Match, groups: Groups, metric: str | None, confidence: float) -> Pair:
    before, after = groups
    is_open = match.before[0].spec["load.arrivals"] != "closed"
    within = min(len(before), len(after)) < REPEATS_MIN
    changes = _within(before, after, confidence) if within else _over_repeats(before, after, confidence)
    primary = metric or ("p50_ms" if is_open else "throughput_rps")
    return Pair(match.name, len(before), len(after), within, primary, changes)


def _over_repeats(before: Sequence[Measured], after: Sequence[Measured], confidence: float) -> dict[str, Change]:
    """Each run is a value; a metric that a run lacks, for want of requests, is not compared."""
    values = [[analyse.metrics(run.summary) for run in group] for group in (before, after)]
    changes = {}
    for metric in METRICS:
        a, b = ([value for one in group if (value := one[metric])] for group in values)
        whole = len(a) == len(before) and len(b) == len(after)
        ratio = intervals.over_repeats(a, b, confidence) if whole else None
        mean_a, mean_b = (float(np.exp(np.mean(np.log(one)))) if whole else None for one in (a, b))
        changes[metric] = Change(metric, mean_a, mean_b, ratio)
    return changes


def _within(before: Sequence[Measured], after: Sequence[Measured], confidence: float) -> dict[str, Change]:
    a, b = _blocks(before), _blocks(after)
    return {
        metric: Change(
            metric,
            intervals.value(metric, a),
            intervals.value(metric, b),
            intervals.within_runs(metric, a, b, confidence),
        )
        for metric in METRICS
    }


def _blocks(runs: Sequence[Measured]) -> Blocks:
    """The runs' windows one after the other, in whole seconds."""
    parts = [_blocks_of(run) for run in runs]
    offsets = accumulate((len(part.came) for part in parts), initial=0)
    return Blocks(
        np.concatenate([np.empty(0, np.int64), *(part.latency_ns for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.block + at for part, at in zip(parts, offsets, strict=False))]),
        np.concatenate([np.empty(0), *(part.came for part in parts)]),
    )


def _blocks_of(run: Measured) -> Blocks:
    window = Window.of(run.spec["measure.warmup_s"], run.spec["measure.duration_s"])
    window = window._replace(end=window.start + int(window.seconds) * BLOCK_NS)
    records = Records(run.path, is_open=run.spec["load.arrivals"] != "closed")
    due = records.measured & records.good & window.holds(records.planned_ns)
    came = records.received_ns[records.good & window.holds(records.received_ns)]
    return Blocks(
        records.latency_ns(due),
        (records.planned_ns[due] - window.start) // BLOCK_NS,
        np.bincount((came - window.start) // BLOCK_NS, minlength=int(window.seconds)).astype(float),
    )
