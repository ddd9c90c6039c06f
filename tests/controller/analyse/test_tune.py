"""Tuning on made-up landscapes: it finds the top, says the same again, and keeps to its number of runs."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from loadproof import analyse
from loadproof.analyse import RunSummary, tune
from loadproof.plan import Plan
from loadproof.sections import Tune
from tests.controller.summaries import run_summary

Measured = tuple[float, float]  # inferences a second, the bound of p95 in ms
Landscape = Callable[[dict[str, Any]], Measured]


def plan(**wanted: Any) -> dict[str, Any]:
    raw = {"name": "t", "server": {"model": "m"}, "slo": {"p95_ms": 50.0}, "tune": {"runs_max": 100, **wanted}}
    return Plan.model_validate(raw).model_dump()


def run(settings: dict[str, Any], measured: Measured) -> RunSummary:
    spec: dict[str, Any] = {"server": {}, "load": {"batch": 1}, "measure": {"warmup_s": 1.0, "duration_s": 4.0}}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        spec[section][name] = value
    rate, high_ms = measured
    return run_summary(
        name=str(settings),
        spec=spec,
        throughput_ips=rate,
        latency_ms={"p95": high_ms, "high": {"p95": high_ms}},
        requests={"ok": 1000},
    )


def tuned(of: dict[str, Any], landscape: Landscape) -> list[dict[str, Any]]:
    """The settings of every run, in order, until it ends by itself."""
    tried = [Tune.model_validate(of["tune"]).middle()]
    runs = [run(tried[0], landscape(tried[0]))]
    while (settings := tune.next_settings(of, runs)) is not None:
        tried.append(settings)
        runs.append(run(settings, landscape(settings)))
        assert len(runs) <= of["tune"]["runs_max"]
    return tried


def best(of: dict[str, Any], landscape: Landscape) -> dict[str, Any]:
    """What it says at its end: it has measured that more than once."""
    tried = tuned(of, landscape)
    kept = [one for one in tried if landscape(one)[1] <= of["slo"]["p95_ms"]]
    return max(kept, key=lambda one: landscape(one)[0])


def hill(top: dict[str, int]) -> Landscape:
    """Throughput falls with the distance from `top`, by steps of two; latency grows with the batch."""

    def landscape(settings: dict[str, Any]) -> Measured:
        away = sum(abs(math.log2(settings[key] / value)) for key, value in top.items())
        return 1000 / (1 + away), 5.0 * settings.get("load.batch", 1)

    return landscape


AXES = {"streams": [1, 2, 4, 8], "batch": [1, 2, 4, 8, 16], "threads": [1, 2, 4, 8]}
KEYS = ("server.streams", "load.batch", "server.threads")


@pytest.mark.parametrize("top", list(itertools.product([1, 4, 8], [1, 2, 8], [1, 8])))
def test_the_top_of_a_hill_is_found_in_a_fraction_of_the_runs(top: tuple[int, ...]) -> None:
    wanted = dict(zip(KEYS, top, strict=True))
    tried = tuned(plan(**AXES), hill(wanted))
    assert tried[-1] == wanted and tried.count(wanted) == 2
    assert len(tried) <= 80 / 3


def test_the_limit_holds_the_top_down() -> None:
    top = {"server.streams": 4, "load.batch": 16, "server.threads": 2}  # 80 ms, and 50 are allowed
    assert best(plan(**AXES), hill(top)) == top | {"load.batch": 8}


def test_where_nothing_keeps_the_limit_it_walks_towards_it() -> None:
    def slow(settings: dict[str, Any]) -> Measured:
        return 100.0 * settings["load.batch"], 45.0 * settings["load.batch"] / settings["server.streams"] ** 0.1

    tried = tuned(plan(streams=[1, 2, 4], batch=[2, 4, 8, 16], tries=1), slow)
    assert {"server.streams": 4, "load.batch": 2} in tried
    assert tune.answer(plan(batch=[2, 4]), [run({"load.batch": 2}, (1.0, 90.0))]).ended is False


def test_long_steps_come_before_short_ones() -> None:
    flat: Landscape = lambda settings: (100.0 - settings["load.batch"] / 100, 1.0)  # noqa: E731
    batches = [one["load.batch"] for one in tuned(plan(batch=list(range(1, 10))), flat)]
    assert batches[:3] == [5, 9, 1]


def test_what_was_lucky_once_is_measured_again_and_gives_way() -> None:
    seen: dict[str, int] = {}

    def lucky(settings: dict[str, Any]) -> Measured:
        key = str(settings)
        seen[key] = seen.get(key, 0) + 1
        return {1: (900.0 if seen[key] == 1 else 100.0), 2: 500.0, 4: 400.0}[settings["server.streams"]], 1.0

    of = plan(streams=[1, 2, 4])
    tried = [one["server.streams"] for one in tuned(of, lucky)]
    assert tried == [2, 4, 1, 1, 2]  # the two of 1 have a median of 500, and 2 was there first


def test_it_stops_at_its_number_of_runs_and_says_so() -> None:
    noisy = random.Random(1)
    of = plan(**AXES, runs_max=7)
    tried = tuned(of, lambda _: (noisy.random(), 1.0))
    assert 5 <= len(tried) <= 7
    answer = tune.answer(of, [run(one, (1.0, 1.0)) for one in tried])
    assert answer.untried and answer.ended and answer.combinations == 80 and answer.seconds == 35.0


def test_runs_are_kept_back_for_the_finalists() -> None:
    """Batch 3 is best and 4 is within 5 % of it: with eight runs, six are tried and two of them again."""
    flat: Landscape = lambda settings: ({3: 500.0, 4: 490.0}.get(settings["load.batch"], 100.0), 1.0)  # noqa: E731
    of = plan(batch=[1, 2, 3, 4, 5, 6, 7, 8], runs_max=8)
    tried = [one["load.batch"] for one in tuned(of, flat)]
    assert tried == [4, 8, 6, 2, 5, 3, 3, 4]  # 4 is never left: 3 is not better by over 5 %
    answer = tune.answer(of, [run({"load.batch": batch}, flat({"load.batch": batch})) for batch in tried])
    assert [(one.name, one.runs) for one in answer.finalists] == [
        ("{'load.batch': 3}", 2),
        ("{'load.batch': 4}", 2),
    ]


def test_what_is_better_by_less_than_the_tolerance_moves_it_nowhere() -> None:
    """On a plain with 4 % of noise it ends by itself, with little more than the steps from the middle."""
    for seed in range(20):
        noisy = random.Random(seed)
        of = plan(**AXES)
        tried = tuned(of, lambda _, noisy=noisy: (1000 * noisy.uniform(0.98, 1.02), 1.0))  # type: ignore[misc]
        assert len(tried) <= 18


def test_without_a_bound_anything_with_one_is_better() -> None:
    measured = [run({"load.batch": 2}, (1.0, 90.0)), run({"load.batch": 4}, (1.0, 90.0))]
    nothing = measured[0].latency_ms.high.model_copy(update={"p95": None})
    measured[0] = run_summary(**dict(measured[0]) | {"latency_ms": {"high": nothing}})
    assert tune.next_settings(plan(batch=[1, 2, 4, 8]), measured) == {"load.batch": 1}  # a long step from 4, not 2


def test_the_campaign_asks_one_function_whoever_chooses() -> None:
    of = plan(streams=[1, 2])
    assert analyse.next_settings(of, [run({"server.streams": 1}, (1.0, 1.0))]) == {"server.streams": 2}
    assert analyse.next_settings({"search": None, "tune": None}, []) is None
