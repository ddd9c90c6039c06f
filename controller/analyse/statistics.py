"""Percentiles with their uncertainty: pure functions of sorted samples, each with its source."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

CONFIDENCE: Final = 0.99
PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}

# Requests before a percentile is given, from MLPerf LoadGen's early stopping ("MLPerf Inference Rules", appendix Early
# Stopping Criterion): the smallest h + t with I(p; h, t + 1) <= 1 - CONFIDENCE for t = 1 request over the latency, I
# being the regularised incomplete beta function. LoadGen starts at p90; the same rule gives the median's 11.
MINIMUM: Final = {0.5: 11, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}


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


def latency_ms(latency_ns: NDArray[np.int64]) -> dict[str, Any]:
    """Mean, percentiles, maximum and the percentiles' `low` and `high` bounds, in ms; null where there are too few.

    `latency_ns` is sorted in place, so that ten million samples are not held twice.
    """
    latency_ns.sort()
    n = len(latency_ns)
    ranks = {name: (nearest_rank(latency_ns, p), bounds(latency_ns, p)) for name, p in PERCENTILES.items()}
    return {
        "mean": float(latency_ns.mean()) / 1e6 if n else None,
        **{name: _ms(value) for name, (value, _) in ranks.items()},
        "max": _ms(float(latency_ns[-1])) if n else None,
        "low": {name: _ms(low) if value is not None else None for name, (value, (low, _)) in ranks.items()},
        "high": {name: _ms(high) if value is not None else None for name, (value, (_, high)) in ranks.items()},
        "confidence": CONFIDENCE,
    }


def bucket(upper: NDArray[np.float64], cumulative: NDArray[np.float64], p: float) -> tuple[float, float | None] | None:
    """The bucket [low, high] that holds the p-quantile of a Prometheus histogram; high is None in the bucket to +Inf.

    `upper`: the buckets' upper bounds, ascending, the last one +Inf; `cumulative`: samples up to each bound. Where in
    its bucket the quantile lies is not known, so nothing is interpolated. None below MINIMUM[p] samples.
    """
    if len(upper) == 0 or cumulative[-1] < MINIMUM[p]:
        return None
    index = int(np.searchsorted(cumulative, rank(int(cumulative[-1]), p)))
    return float(upper[index - 1]) if index else 0.0, float(upper[index]) if math.isfinite(upper[index]) else None


def by_block(latency_ns: NDArray[np.int64], block: NDArray[np.int64], p: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The blocks that have samples and their nearest-rank p-quantiles in ns, however few the samples: for charts only.

    One sort of (block, latency) packed into 64 bits, no loop: blocks under 2^19, latencies under 2^44 ns (4.8 hours).
    """
    packed = np.sort((block.astype(np.int64) << 44) | latency_ns)
    blocks, start, count = np.unique(packed >> 44, return_index=True, return_counts=True)
    ranks = np.maximum(np.ceil(p * count).astype(np.int64), 1)
    return blocks, packed[start + ranks - 1] & ((1 << 44) - 1)


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6
