"""Percentiles, bounds and buckets against their definitions, brute force and scipy."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import beta, binom

from loadproof.analyse import statistics

PERCENTILES = sorted(statistics.MINIMUM)


@pytest.mark.parametrize("p", PERCENTILES)
def test_a_rank_is_the_smallest_that_covers_the_percentile(p: float) -> None:
    exact = Fraction(str(p))
    for n in [*range(1, 400), 661, 662, 1000, 6636, 9_999_999, 10_000_000]:
        rank = statistics.rank(n, p)
        assert Fraction(rank, n) >= exact
        assert rank == 1 or Fraction(rank - 1, n) < exact


@pytest.mark.parametrize("p", PERCENTILES)
def test_a_percentile_is_the_nearest_rank_one_of_numpy(p: float) -> None:
    rng = np.random.default_rng(3)
    for n in (statistics.MINIMUM[p], statistics.MINIMUM[p] + 1, 7919):
        samples = rng.integers(0, 10**9, n)
        expected = np.percentile(samples, 100 * Fraction(str(p)).__float__(), method="inverted_cdf")
        rank = statistics.rank(n, p) - 1
        assert np.partition(samples, rank)[rank] == expected
        assert statistics.nearest_rank(np.sort(samples), p) == expected


@pytest.mark.parametrize("p", PERCENTILES)
def test_a_percentile_needs_what_early_stopping_asks_for_and_no_more(p: float) -> None:
    def enough(n: int) -> bool:  # one of n requests over the latency
        return bool(beta.cdf(p, n - 1, 2) <= 1 - statistics.CONFIDENCE)

    least = statistics.MINIMUM[p]
    assert enough(least) and not enough(least - 1)
    assert statistics.nearest_rank(np.arange(least), p) is not None
    assert statistics.nearest_rank(np.arange(least - 1), p) is None


@pytest.mark.parametrize("p", PERCENTILES)
@pytest.mark.parametrize("n", [1, 5, 64, 130, 662, 6636, 50_000])
def test_bounds_are_the_tightest_order_statistics_that_hold_the_confidence(n: int, p: float) -> None:
    tail = (1 - statistics.CONFIDENCE) / 2
    low, high = statistics.bounds(np.arange(1, n + 1), p)  # a sample is its own rank
    if low is None:
        assert binom.cdf(0, n, p) > tail
    else:
        assert binom.cdf(low - 1, n, p) <= tail < binom.cdf(low, n, p)
    if high is None:
        assert binom.sf(n - 1, n, p) > tail
    else:
        assert binom.sf(high - 1, n, p) <= tail < binom.sf(high - 2, n, p)


def test_bounds_hold_the_true_percentile_as_often_as_they_say() -> None:
    rng = np.random.default_rng(11)
    truth = -np.log(0.05)
    held = 0
    for _ in range(2000):
        low, high = statistics.bounds(np.sort(rng.exponential(size=400)), 0.95)
        assert low is not None and high is not None
        held += low <= truth <= high
    assert held / 2000 >= 0.985


def test_latency_has_bounds_only_where_it_has_a_percentile() -> None:
    latency: Any = statistics.latency_ms(np.arange(1, 131)[::-1] * 1_000_000)
    assert (latency.mean, latency.p50, latency.p95, latency.max) == (65.5, 65.0, 124.0, 130.0)
    assert latency.p99 is latency.low.p99 is latency.high.p99 is None
    assert latency.low.p95 <= latency.p95 <= latency.high.p95


def test_latency_of_nothing_is_null_throughout() -> None:
    latency = statistics.latency_ms(np.empty(0, np.int64))
    assert {latency[name] for name in ("mean", "p50", "p99", "max")} == {None}
    assert set(dict(latency.low).values()) == set(dict(latency.high).values()) == {None}


def test_a_bucket_holds_the_percentile_of_the_samples_behind_it() -> None:
    rng = np.random.default_rng(5)
    samples = np.sort(rng.lognormal(3, 1, 10_000))
    upper = np.array([1.0, 5, 10, 20, 40, 80, 160, np.inf])
    cumulative = np.array([(samples <= bound).sum() for bound in upper], float)
    for p in PERCENTILES:
        found, exact = statistics.bucket(upper, cumulative, p), statistics.nearest_rank(samples, p)
        assert found is not None and exact is not None
        low, high = found
        assert low < exact and (high is None or exact <= high)
    assert statistics.bucket(upper, cumulative, 0.999) == (160.0, None)


def test_a_bucket_needs_as_many_samples_as_a_percentile() -> None:
    upper = np.array([1.0, np.inf])
    assert statistics.bucket(upper, np.array([63.0, 63.0]), 0.9) is None
    assert statistics.bucket(upper, np.array([64.0, 64.0]), 0.9) == (0.0, 1.0)
    assert statistics.bucket(np.empty(0), np.empty(0), 0.9) is None


def test_percentiles_by_block_are_each_blocks_own() -> None:
    rng = np.random.default_rng(7)
    latency, block = rng.integers(1, 10**10, 5000), rng.integers(0, 40, 5000)
    shares = (0.5, 0.95, 1.0)
    blocks, quantiles = statistics.by_block(latency, block, shares)
    for p, found in zip(shares, quantiles, strict=True):
        expected = [np.percentile(latency[block == one], 100 * p, method="inverted_cdf") for one in blocks]
        assert list(blocks) == sorted(set(block)) and list(found) == expected


def test_no_blocks_have_no_percentiles() -> None:
    blocks, (found,) = statistics.by_block(np.empty(0, np.int64), np.empty(0, np.int64), (0.5,))
    assert len(blocks) == len(found) == 0


def autoregressive(rng: np.random.Generator, n: int, coefficient: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A stationary AR(1) series of counts a second around 500."""
    noise = rng.normal(0, 10, n + 100)
    return np.asarray(500 + lfilter([1.0], [1.0, -coefficient], noise)[100:])


@pytest.mark.parametrize(
    ("n", "coefficient", "least"),
    [(10, 0.0, 0.985), (10, 0.3, 0.97), (60, 0.0, 0.985), (60, 0.3, 0.98), (60, 0.6, 0.97), (300, 0.6, 0.98)],
)
def test_bounds_of_a_throughput_cover_it_as_often_as_they_say(n: int, coefficient: float, least: float) -> None:
    rng = np.random.default_rng(5)
    found = [statistics.mean_bounds(autoregressive(rng, n, coefficient)) for _ in range(1000)]
    assert least <= np.mean([bounds is not None and bounds[0] <= 500 <= bounds[1] for bounds in found]) <= 1


def test_seconds_that_are_alike_make_the_bounds_wider_than_independent_ones() -> None:
    rng = np.random.default_rng(5)

    def width(coefficient: float) -> float:
        found = [statistics.mean_bounds(autoregressive(rng, 120, coefficient)) for _ in range(99)]
        return float(np.median([bounds[1] - bounds[0] for bounds in found if bounds]))

    assert 2 < width(0.6) / width(0.0) < 3.2  # the mean's standard error is 1 / (1 - 0.6) = 2.5 times as large


def test_few_seconds_have_no_bounds_and_constant_ones_are_exact() -> None:
    assert statistics.mean_bounds(np.arange(9.0)) is None
    assert statistics.mean_bounds(np.full(10, 7.0)) == (7.0, 7.0)


def test_a_burst_of_failures_is_worth_less_than_as_many_that_are_spread() -> None:
    """Of 2,000 requests 60 are never answered: over p99, so that the quantile itself is theirs."""
    at_ns = np.arange(2000, dtype=np.int64) * 1_000_000
    burst, spread = np.full((2, 2000), 1_000_000, np.int64)
    burst[1000:1060] = spread[::33][:60] = np.iinfo(np.int64).max
    assert statistics.independent(burst, at_ns, 0.99) < 100
    assert statistics.independent(spread, at_ns, 0.99) > 1500
