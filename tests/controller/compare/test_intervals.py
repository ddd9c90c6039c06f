"""The intervals against scipy, against brute force, and as often right as they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import ttest_ind

from loadproof.analyse import statistics
from loadproof.compare import intervals
from loadproof.compare.comparison import Change
from loadproof.compare.intervals import Blocks, Interval

METRICS = ("throughput_rps", "mean_ms", "p50_ms", "p99_ms")


def test_the_interval_over_repeats_is_welchs_on_the_logarithms() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(3, 0.1, 5), rng.lognormal(3.1, 0.3, 8)
    expected = ttest_ind(np.log(b), np.log(a), equal_var=False).confidence_interval(0.99)
    found = intervals.over_repeats(a.tolist(), b.tolist(), 0.99)
    assert found == pytest.approx((np.exp(np.log(b).mean() - np.log(a).mean()), *np.exp(expected)))


def test_repeats_without_any_spread_have_an_exact_ratio() -> None:
    assert intervals.over_repeats([2.0] * 5, [3.0] * 5, 0.99) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize(("spread_a", "spread_b", "n_b"), [(0.03, 0.03, 5), (0.01, 0.05, 5), (0.05, 0.01, 9)])
def test_intervals_over_repeats_hold_the_ratio_as_often_as_they_say(spread_a: float, spread_b: float, n_b: int) -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(2000):
        a, b = np.exp(rng.normal(0, spread_a, 5)), np.exp(rng.normal(0.1, spread_b, n_b))
        found = intervals.over_repeats(a.tolist(), b.tolist(), 0.99)
        held += found.low <= math.exp(0.1) <= found.high
    assert 0.98 <= held / 2000 < 1


def side(rng: Any, seconds: int, coefficient: float, slower: float = 1.0, moves: float = 0.1) -> Blocks:
    """A closed loop of some 100 answers a second at a level that moves as AR(1)."""
    noise = rng.normal(0, math.sqrt(1 - coefficient**2), seconds + 100)
    level = np.exp(moves * lfilter([1.0], [1.0, -coefficient], noise)[100:])
    came = rng.poisson(100 / level / slower)
    block = np.repeat(np.arange(seconds), came)
    latency_ms = rng.lognormal(np.log(8), 0.25, len(block)) * level[block] * slower
    return Blocks((latency_ms * 1e6).astype(np.int64), block, came.astype(float))


@pytest.mark.parametrize(("seconds", "coefficient"), [(10, 0.0), (10, 0.5), (60, 0.0), (60, 0.5)])
def test_intervals_within_runs_hold_the_ratio_as_often_as_they_say(seconds: int, coefficient: float) -> None:
    rng = np.random.default_rng(3)
    held = dict.fromkeys(METRICS, 0)
    for _ in range(300):
        a, b = side(rng, seconds, coefficient), side(rng, seconds, coefficient, slower=1.1)
        for metric in METRICS:
            found = intervals.within_runs(metric, a, b, 0.99)
            assert found is not None
            held[metric] += found.low <= (1 / 1.1 if metric == "throughput_rps" else 1.1) <= found.high
    assert all(count / 300 >= 0.97 for count in held.values()), held


def test_seconds_that_are_alike_widen_the_interval_within_runs() -> None:
    rng = np.random.default_rng(4)

    def width(coefficient: float) -> float:
        found = [
            intervals.within_runs("p50_ms", side(rng, 120, coefficient), side(rng, 120, coefficient), 0.99)
            for _ in range(40)
        ]
        return float(np.median([math.log(one.high / one.low) for one in found if one]))

    assert 1.5 < width(0.6) / width(0.0) < 3.5


def test_a_percentiles_bounds_of_independent_requests_are_those_of_order_statistics() -> None:
    rng = np.random.default_rng(5)
    blocks = side(rng, 120, 0.0, moves=0.0)
    found = intervals.of_blocks("p95_ms", blocks, 0.99)
    low, high = statistics.bounds(np.sort(blocks.latency_ns), 0.95)
    assert found is not None and low is not None and high is not None
    assert found.high - found.low == pytest.approx((high - low) / 1e6, rel=0.5)
    assert found.low < found.estimate < found.high


def test_a_percentile_whose_bound_lies_beyond_all_requests_has_an_open_side() -> None:
    found = intervals.of_blocks("p99_ms", side(np.random.default_rng(6), 10, 0.0), 0.99)
    assert found is not None and math.isinf(found.high)
    both = intervals.ratio(found, Interval(10.0, 9.0, 11.0))
    assert both.low == 0 and 0 < both.estimate < both.high < math.inf


def test_two_sides_join_as_independent_errors_do() -> None:
    found = intervals.ratio(Interval(10.0, 10 / 1.03, 10 * 1.03), Interval(11.0, 11 / 1.04, 11 * 1.04))
    half = math.hypot(math.log(1.03), math.log(1.04))
    assert found == pytest.approx((1.1, 1.1 * math.exp(-half), 1.1 * math.exp(half)))


@pytest.mark.parametrize("metric", METRICS)
def test_too_few_seconds_or_requests_have_no_interval(metric: str) -> None:
    nothing = Blocks(np.empty(0, np.int64), np.empty(0, np.int64), np.zeros(20))
    assert intervals.of_blocks(metric, nothing, 0.99) is None and intervals.value(metric, nothing) is None
    assert intervals.of_blocks(metric, side(np.random.default_rng(7), 9, 0.0), 0.99) is None


def runs(rng: Any, slower: float) -> dict[str, list[float]]:
    """Five repeats of four clients before a server that sleeps 10 ms: 3 s, each at a level of its own, some stalled."""
    values: dict[str, list[float]] = {"throughput_rps": [], "p50_ms": []}
    for _ in range(5):
        level = math.exp(rng.normal(0, 0.01))
        latency_ms = (10 * slower * level + rng.exponential(0.5, 1500)) * np.where(rng.random(1500) < 0.005, 3, 1)
        ends_ms = np.cumsum(latency_ms.reshape(4, -1), axis=1)
        inside = np.sort((latency_ms[ends_ms.ravel() < 3000] * 1e6).astype(np.int64))
        values["throughput_rps"].append(len(inside) / 3)
        values["p50_ms"].append(statistics.nearest_rank(inside, 0.5) or 0.0)
    return values


def evidence(rng: Any, slower: float) -> dict[str, str]:
    before, after = runs(rng, 1.0), runs(rng, slower)
    found = {name: intervals.over_repeats(before[name], after[name], statistics.CONFIDENCE) for name in before}
    return {name: Change(name, None, None, ratio).evidence for name, ratio in found.items()}


def test_of_alike_pairs_nineteen_in_twenty_show_no_evidence_and_of_slowed_ones_nine_in_ten_do() -> None:
    rng = np.random.default_rng(8)
    alike = [evidence(rng, 1.0) for _ in range(600)]
    slowed = [evidence(rng, 1.1) for _ in range(200)]
    faster = [evidence(rng, 1 / 1.1) for _ in range(50)]
    for metric in ("throughput_rps", "p50_ms"):
        assert sum(one[metric] == "no evidence" for one in alike) / len(alike) >= 19 / 20
        assert sum(one[metric] == "worse" for one in slowed) / len(slowed) >= 9 / 10
        assert sum(one[metric] == "better" for one in faster) / len(faster) >= 9 / 10
