"""Percentiles with their uncertainty: pure functions of sorted samples, each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom
from scipy.stats import t as student

from loadproof.analyse.schema import Latency, Percentiles

CONFIDENCE: Final = 0.99
PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}

# Requests before a percentile is given, from MLPerf LoadGen's early stopping ("MLPerf Inference Rules", appendix Early
# Stopping Criterion): the smallest h + t with I(p; h, t + 1) <= 1 - CONFIDENCE for t = 1 request over the latency, I
# being the regularised incomplete beta function. LoadGen starts at p90; the same rule gives the median's 11.
MINIMUM: Final = {0.5: 11, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}

# Blocks before a mean over blocks has bounds, and the lags at which correlation between them is looked for.
BLOCKS_MIN: Final = 10
RATE_BLOCKS: Final = 20
LAGS_MAX: Final = 1000
WORTH_BLOCKS: Final = 20
# Below this many effective values an estimate of tau is noise; the bounds would span anything and cover no more.
EFFECTIVE_MIN: Final = 4.0


def rank(n: int, p: float) -> int:
    """The nearest rank of the p-quantile of `n` samples, from 1: the smallest r with r / n >= p.

    Source: Hyndman and Fan, "Sample Quantiles in Statistical Packages" (1996), definition 1.
    """
    return max(1, math.ceil(p * n))


def nearest_rank(ordered: NDArray[Any], p: float) -> float | None:
    """The p-quantile as one of the `ordered` samples, ordered[ceil(p n) - 1]; None below MINIMUM[p] samples."""
    n = len(ordered)
    return float(ordered[rank(n, p) - 1]) if n >= MINIMUM[p] else None


def bounds(ordered: NDArray[Any], p: float, confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Distribution-free confidence bounds of the p-quantile: two of the `ordered` samples, equal tails.

    The number of samples below the quantile is binomial(n, p), so that X(l) and X(u) enclose it with at least
    `confidence`. A side with no such sample is None. Assumes independent samples: queueing correlates neighbours, which
    makes the true bounds wider. Source: David and Nagaraja, "Order Statistics" (3rd ed., 2003), section 7.1.
    """
    n, tail = len(ordered), (1 - confidence) / 2
    if n == 0:
        return None, None
    low = int(binom.ppf(tail, n, p))
    high = int(binom.ppf(1 - tail, n, p)) + 1
    return (float(ordered[low - 1]) if low >= 1 else None, float(ordered[high - 1]) if high <= n else None)


def latency_ms(latency_ns: NDArray[np.int64]) -> Latency:
    """Mean, percentiles, maximum and the percentiles' `low` and `high` bounds, in ms; null where there are too few.

    `latency_ns` is sorted in place, so that ten million samples are not held twice.
    """
    latency_ns.sort()
    n = len(latency_ns)
    ranks = {name: (nearest_rank(latency_ns, p), bounds(latency_ns, p)) for name, p in PERCENTILES.items()}
    return Latency(
        mean=float(latency_ns.mean()) / 1e6 if n else None,
        **{name: _ms(value) for name, (value, _) in ranks.items()},
        max=_ms(float(latency_ns[-1])) if n else None,
        low=Percentiles(**{name: None if value is None else _ms(low) for name, (value, (low, _)) in ranks.items()}),
        high=Percentiles(**{name: None if value is None else _ms(high) for name, (value, (_, high)) in ranks.items()}),
        confidence=CONFIDENCE,
    )


def share_low(count: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The lower confidence bound of a share that was seen `count` times among `of` independent ones.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits" (1934), one-sided.
    """
    return float(beta.ppf(1 - confidence, count, of - count + 1)) if count else 0.0


def independent(latency_ns: NDArray[Any], at_ns: NDArray[np.int64], p: float) -> float:
    """How many independent requests these n are worth, 1 to n, where a share near 1 - p of them is asked about.

    Of a queue the slow ones come together. The share of those over the own p-quantile varies between WORTH_BLOCKS equal
    blocks of the time (`at_ns`: when each was due) more than independent ones would let it; the ratio of the variances
    is Kish's design effect ("Survey Sampling", 1965), and n over it the effective number that Clopper and Pearson's
    bounds take (Korn and Graubard, "Confidence Intervals for Proportions with Small Expected Number of Positive Counts
    Estimated from Survey Data", 1998).
    """
    n = len(latency_ns)
    if n == 0:
        return 0.0
    quantile = np.partition(latency_ns, rank(n, p) - 1)[rank(n, p) - 1]
    slow = latency_ns > quantile
    if not slow.any():  # the quantile itself is of those that were never answered
        slow = latency_ns >= quantile
    share = float(slow.mean())
    block = (at_ns - at_ns.min()) * WORTH_BLOCKS // (int(np.ptp(at_ns)) + 1)
    excess = np.bincount(block, slow - share, minlength=WORTH_BLOCKS)
    variance = float(excess @ excess) * WORTH_BLOCKS / (WORTH_BLOCKS - 1) / n**2
    return min(float(n), max(1.0, share * (1 - share) / variance)) if variance else float(n)


def bucket(upper: NDArray[np.float64], cumulative: NDArray[np.float64], p: float) -> tuple[float, float | None] | None:
    """The bucket [low, high] that holds the p-quantile of a Prometheus histogram; high is None in the bucket to +Inf.

    `upper`: the buckets' upper bounds, ascending, the last one +Inf; `cumulative`: samples up to each bound. Where in
    its bucket the quantile lies is not known, so nothing is interpolated. None below MINIMUM[p] samples.
    """
    if len(upper) == 0 or cumulative[-1] < MINIMUM[p]:
        return None
    index = int(np.searchsorted(cumulative, rank(int(cumulative[-1]), p)))
    return float(upper[index - 1]) if index else 0.0, float(upper[index]) if math.isfinite(upper[index]) else None


def by_block(
    latency_ns: NDArray[np.int64], block: NDArray[np.int64], shares: Sequence[float]
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The blocks that have samples and, for each share p, their nearest-rank p-quantiles in ns, however few there are.

    One sort of (block, latency) packed into 64 bits, no loop: blocks under 2^19, latencies under 2^44 ns (4.8 hours).
    """
    packed = np.sort((block.astype(np.int64) << 44) | latency_ns)
    last = np.flatnonzero(np.diff(packed >> 44, append=-1))
    start = np.concatenate([[0], last + 1])[: len(last)]
    count = last + 1 - start
    ranks = [np.maximum(np.ceil(p * count).astype(np.int64), 1) for p in shares]
    return packed[last] >> 44, [packed[start + rank - 1] & ((1 << 44) - 1) for rank in ranks]


def mean_bounds(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Confidence bounds of the mean of a stationary series (throughput: completions of each second), autocorrelated.

    Student's t with the effective number of values n / tau, tau = 1 + 2 (sum of autocorrelations) being the larger of
    two estimates: Geyer's initial monotone positive sequence ("Practical Markov Chain Monte Carlo", 1992, 3.3) and
    that of an AR(1) process whose coefficient is corrected for small samples (Kendall, "Note on Bias in the Estimation
    of Autocorrelation", 1954). In simulation (tests/controller/analyse/test_statistics.py) the 99 % bounds of AR(1)
    series with coefficients 0, 0.3 and 0.6 cover: of 10 values 99.5, 98.2 and 95.5 %; of 60 values 99.4, 98.8 and
    98.6 %; of 300 values 99 %. None below BLOCKS_MIN values.
    """
    n = len(values)
    if n < BLOCKS_MIN:
        return None
    mean = float(values.mean())
    tau = _autocorrelation_time(values - mean)
    effective = max(n / tau, EFFECTIVE_MIN)
    # The spread around a mean that was taken of the same correlated values is too small by the mean's own.
    variance = float(values.var()) * effective / (effective - 1)
    half = float(student.ppf((1 + confidence) / 2, effective - 1)) * math.sqrt(variance / effective)
    return mean - half, mean + half


def rate_bounds(
    at_s: NDArray[np.float64], seconds: float, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Bounds of how many a second came, of those at `at_s` (0 to `seconds`): from RATE_BLOCKS equal blocks.

    For a window that is too short for blocks of a second; None where nothing came.
    """
    if len(at_s) == 0 or seconds <= 0:
        return None
    counts, _ = np.histogram(at_s, RATE_BLOCKS, (0.0, seconds))
    bounds = mean_bounds(counts * (RATE_BLOCKS / seconds), confidence)
    return None if bounds is None else (max(0.0, bounds[0]), bounds[1])


def _autocorrelation_time(centred: NDArray[np.float64]) -> float:
    """tau >= 1: how many neighbouring values tell as much as one independent value."""
    n = len(centred)
    power = float(centred @ centred)
    if power == 0:
        return 1.0
    correlation = np.array([float(centred[: n - lag] @ centred[lag:]) for lag in range(min(n // 2, LAGS_MAX))]) / power
    first = min((n * correlation[1] + 1) / (n - 3), 0.97)
    correlation[1:] += 1 / n  # each was lowered by the mean's own error
    pairs = correlation[: len(correlation) // 2 * 2].reshape(-1, 2).sum(axis=1)
    positive = pairs[: int(np.argmax(pairs <= 0))] if (pairs <= 0).any() else pairs
    geyer = 2 * float(np.minimum.accumulate(positive).sum()) - 1 if len(positive) else 1.0
    return float(max(1.0, geyer, (1 + first) / (1 - first)))


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6
