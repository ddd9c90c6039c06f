"""Tuning: which settings of the server to measure next, coarse to fine, for the most throughput under a latency limit.

A pattern search (Hooke and Jeeves, "Direct Search Solution of Numerical and Statistical Problems", 1961): from the best
point so far one step along each axis, long steps first; what is better by less than a tolerance moves it nowhere. Then
the finalists are measured again, beside each other. Pure functions of the plan and of the summary's runs.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from loadproof.analyse import sweet_spot
from loadproof.analyse.schema import Finalist, RunSummary, TuneAnswer
from loadproof.sections import Tune

Settings = dict[str, Any]
Axes = Mapping[str, Sequence[Any]]
Point = tuple[int, ...]  # an index into each axis
Score = tuple[int, float]  # 1 and inferences a second where the limit is kept, else 0 and -(upper bound, ms)

FINALISTS_MAX: Final = 3


def next_settings(plan: Mapping[str, Any], runs: Sequence[RunSummary]) -> Settings | None:
    """What to measure next: a step that is untried, else a finalist that has fewer than `tune.tries` runs; None: ended.

    The first run is the plan's. So many of `tune.runs_max` are kept back as the finalists need, a new one and those
    that come after one that falls included: one that was lucky once is measured again before it is believed.
    """
    tune = Tune.model_validate(plan["tune"])
    found = tune.axes()
    if not runs or len(runs) >= tune.runs_max:
        return None
    groups = _groups(plan, runs)
    scores = {point: _score(plan, group) for point, group in groups.items()}
    lacking = {point: tune.tries - len(groups[point]) for point in _finalists(scores, tune.tolerance)}
    kept_back = sum(max(0, number) for number in lacking.values())
    again = tune.tries - 1
    reserve = max(kept_back + again, min(FINALISTS_MAX * again, tune.runs_max // 3))
    for point in _untried(found, scores, tune.tolerance):
        if len(runs) + 1 + reserve <= tune.runs_max:
            return _settings(found, point)
    return _settings(found, max(lacking, key=lacking.__getitem__)) if kept_back else None


def answer(plan: Mapping[str, Any], runs: Sequence[RunSummary]) -> TuneAnswer:
    """`tune` of summary.json: what could be set, how much of it was measured, and whether it ended by itself.

    The best itself is `sweet_spot`, and the first of the `finalists`, each with the least and the most inferences a
    second of its runs. `untried`: how many steps from it were not, for want of runs.
    """
    tune = Tune.model_validate(plan["tune"])
    found = tune.axes()
    groups = _groups(plan, runs)
    scores = {point: _score(plan, group) for point, group in groups.items()}
    measures = [run.spec["measure"] for run in runs]
    return TuneAnswer(
        axes=found,
        combinations=math.prod(len(values) for values in found.values()),
        measured=len(groups),
        runs=len(runs),
        ended=next_settings(plan, runs) is None,
        untried=len(_untried(found, scores, tune.tolerance)),
        tolerance=tune.tolerance,
        finalists=[_finalist(groups[point]) for point in _finalists(scores, tune.tolerance) if scores[point][0]],
        seconds=sum(measure["warmup_s"] + measure["duration_s"] for measure in measures),
    )


def _groups(plan: Mapping[str, Any], runs: Sequence[RunSummary]) -> dict[Point, list[RunSummary]]:
    """The runs at each point, in the order of their first ones."""
    found = Tune.model_validate(plan["tune"]).axes()
    return {_point(found, group[0].spec): group for group in sweet_spot.by_spec(runs)}


def _score(plan: Mapping[str, Any], group: Sequence[RunSummary]) -> Score:
    """What keeps the limit comes before what does not, by throughput; the rest by how little it is over."""
    metric, limit = sweet_spot.limit_of(plan)
    assert metric is not None  # the plan has made sure
    one = sweet_spot.configuration(group, {}, metric)
    if sweet_spot.keeps(one, limit):
        return 1, one.throughput_ips or 0.0
    high_ms = one.latency_high_ms
    return 0, -sys.float_info.max if high_ms is None else -high_ms


def _finalists(scores: Mapping[Point, Score], tolerance: float) -> list[Point]:
    """The best of all, and those that it is not better than by more than the tolerance; the best of them first."""
    best, *others = sorted(scores, key=scores.__getitem__, reverse=True)
    near = [point for point in others if not _is_better(scores[best], scores[point], tolerance)]
    return [best, *near][:FINALISTS_MAX]


def _untried(found: Axes, scores: Mapping[Point, Score], tolerance: float) -> list[Point]:
    """The steps that were not measured, from where those that were have led to."""
    points = iter(scores)
    centre = next(points)
    for point in points:
        if _is_better(scores[point], scores[centre], tolerance):
            centre = point
    return [point for point in _neighbours(centre, [len(values) for values in found.values()]) if point not in scores]


def _is_better(one: Score, other: Score, tolerance: float) -> bool:
    """By more than the tolerance."""
    return one[0] > other[0] or (one[0] == other[0] and one[1] > other[1] + tolerance * abs(other[1]))


def _finalist(group: Sequence[RunSummary]) -> Finalist:
    rates = [run.throughput_ips or 0.0 for run in group]
    name = sweet_spot.plain_name(group[0].name)
    return Finalist(name=name, runs=len(group), low_ips=min(rates), high_ips=max(rates))


def _neighbours(point: Point, sizes: Sequence[int]) -> Iterator[Point]:
    """One step up or down each axis, from half of the longest axis down to single steps."""
    step = max(1, max(sizes) // 2)
    while step:
        for axis, sign in itertools.product(range(len(sizes)), (1, -1)):
            index = point[axis] + sign * step
            if 0 <= index < sizes[axis]:
                yield (*point[:axis], index, *point[axis + 1 :])
        step //= 2


def _point(found: Axes, spec: Mapping[str, Any]) -> Point:
    places = ((key.partition(".")[0], key.partition(".")[2], values) for key, values in found.items())
    return tuple(values.index(spec[section][key]) for section, key, values in places)


def _settings(found: Axes, point: Point) -> Settings:
    return {key: values[index] for (key, values), index in zip(found.items(), point, strict=True)}
