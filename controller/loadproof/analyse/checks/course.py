"""Was the window of one piece: steady, warm, long enough?"""

from __future__ import annotations

from typing import Final

from loadproof.analyse import statistics
from loadproof.analyse.checks.events import Fields
from loadproof.analyse.formats import figure, percent
from loadproof.analyse.schema import RunSummary

# Sizes of an effect, as a share; where there is a bound at 99 % confidence, it must exclude the smaller one.
LATENCY_CHANGE: Final = 0.25
LATENCY_CHANGE_BOUND: Final = 0.10
BACKLOG_CHANGE: Final = 0.5  # of what is in flight in the middle of the window
BACKLOG_BOUND: Final = 0.01  # of the requests that were due
KEPT_UP: Final = 0.95
LITTLE: Final = 0.5  # a burst at the window's edge makes it a third; records alone can't break the law otherwise
COLD: Final = 1.5  # the first hundredth's latency over the typical one's ...
COLDER: Final = 1.1  # ... and over that of every later hundredth


def queue_growing(run: RunSummary) -> Fields | None:
    """The backlog grew by a real share of what was offered; a rate that changes has ups and downs of its own."""
    trend, offered, seconds = run.steady.in_flight, run.offered_rps, run.window.duration_s or 0
    if trend is None or not offered:
        return None
    grown, surely = trend.change * trend.median, trend.low * trend.median
    if trend.change < BACKLOG_CHANGE or surely < BACKLOG_BOUND * offered * seconds:
        return None
    share = (run.throughput_rps or 0) / offered
    if _rate_changes(run) and share >= KEPT_UP:
        return None
    late = f", and only {percent(share)} of the offered {offered:,.4g} /s were answered in time"
    return {"grown": grown, "answered": late if share < KEPT_UP else ""}


def not_steady(run: RunSummary) -> Fields | None:
    trend = run.steady.latency
    if trend is None or _rate_changes(run) or queue_growing(run):
        return None
    surely = trend.low if trend.change > 0 else -trend.high
    if abs(trend.change) <= LATENCY_CHANGE or surely <= LATENCY_CHANGE_BOUND:
        return None
    return {
        "change": percent(trend.change, sign="+"),
        "low": percent(trend.low, sign="+"),
        "high": percent(trend.high, sign="+"),
    }


def cold_start(run: RunSummary) -> Fields | None:
    """Slow from the very beginning into the window, and never again: what was quick before it was only disturbed."""
    found = run.cold_start
    if found is None or _rate_changes(run):
        return None
    first, cold = found.first_ms, COLD * found.typical_ms
    was_quick = found.before_ms is not None and found.before_ms <= cold
    if was_quick or first <= cold or first <= COLDER * found.slowest_ms:
        return None
    return {"first_ms": figure(found.first_ms), "typical_ms": figure(found.typical_ms)}


def too_few_samples(run: RunSummary) -> Fields | None:
    """No percentile can be given at all, or none of those that the plan limits."""
    good = run.requests.ok
    if not good or run.has_event("interrupted"):
        return None
    limits = [name for name in statistics.PERCENTILES if run.limits.get(f"{name}_ms") is not None]
    missing = [name for name in ("p50", *limits) if good < statistics.MINIMUM[statistics.PERCENTILES[name]]]
    if not missing:
        return None
    wanted = ", ".join(
        f"{name.replace('_', '.')} {statistics.MINIMUM[statistics.PERCENTILES[name]]:,}" for name in missing
    )
    return {"good": good, "wanted": wanted}


def littles_law(run: RunSummary) -> Fields | None:
    law = run.littles_law
    # A queue that grows reaches over the window's end, and has a reason of its own.
    if law is None or abs(law.ratio - 1) <= LITTLE or queue_growing(run):
        return None
    return {"in_flight": figure(law.in_flight_mean), "product": figure(law.rate_rps * law.latency_ms / 1000)}


def _rate_changes(run: RunSummary) -> bool:
    return run.load.get("arrivals") in ("steps", "trace")
