"""The audit before the load: is an input that was asked before answered sooner than a fresh one?"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy.stats import norm

from loadproof.analyse import statistics
from loadproof.analyse.population import Floats, Records
from loadproof.analyse.schema import Audit

PAIRS_MIN: Final = 8


def audit(records: Records) -> Audit | None:
    """`ratio` of the medians repeated / fresh with its bounds; None where no audit was made.

    `repeated` and `fresh` are counts, `fresh_ms` the median. Of fewer than PAIRS_MIN pairs there is no ratio: one
    answer took too long, or there are no more distinct inputs. Source of the test: MLPerf's TEST04.
    """
    rows = records.phase("audit") & records.good
    if not rows.any():
        return None
    took_ms = records.service_ns(rows) / 1e6
    again = records.payload[rows] == 0
    again[int(np.argmin(records.sent_ns[rows]))] = False  # what is repeated was fresh once
    fresh, repeated = took_ms[~again], took_ms[again]
    enough = min(len(fresh), len(repeated)) >= PAIRS_MIN
    low, high = ratio_bounds(fresh, repeated) if enough else (None, None)
    return Audit(
        fresh=len(fresh),
        repeated=len(repeated),
        fresh_ms=float(np.median(fresh)) if len(fresh) else None,
        ratio=float(np.median(repeated) / np.median(fresh)) if enough else None,
        low=low,
        high=high,
    )


def ratio_bounds(before: Floats, after: Floats, confidence: float = statistics.CONFIDENCE) -> tuple[float, float]:
    """Distribution-free bounds of the factor after / before between two samples of positive values.

    Of all pairs' ratios those at the ranks that the Mann-Whitney test leaves (normal approximation): Moses' interval
    on the logarithms (Hollander and Wolfe, "Nonparametric Statistical Methods", 3rd ed., 2014, section 4.3).
    """
    m, n = len(before), len(after)
    ratios = np.sort(np.divide.outer(after, before).ravel())
    spread = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(m * n * (m + n + 1) / 12)
    rank = max(1, math.floor(m * n / 2 - spread))
    return float(ratios[rank - 1]), float(ratios[m * n - rank])
