"""Did the load generator offer what was planned, and when it was planned?"""

from __future__ import annotations

from typing import Final

from loadproof.analyse.checks.events import Fields
from loadproof.analyse.formats import figure, percent
from loadproof.analyse.schema import RunSummary

SATURATED_CPU_PERCENT: Final = 90  # of one core: a worker is one thread
BEHIND_MS: Final = 1.0  # of lateness in the median: an open loop that has time to spare waits for the next send
NEAR_CEILING: Final = 0.8  # of what a worker does by itself, as calibrated
NEAR_CEILING_BOUND: Final = 0.7
MOSTLY_FLOOR: Final = 0.5  # of the median latency: what it is against a server that answers at once
MOSTLY_FLOOR_BOUND: Final = 0.4
# Sizes of an effect, in percent of the window; where there is a bound at 99 % confidence, it must exclude the smaller.
STOOD_PERCENT: Final = 5.0  # of it an event loop stood still, though it had a core
STOOD_BOUND: Final = 2.0
GC_PERCENT: Final = 5.0
GC_BOUND: Final = 2.0
LATE_SHARE: Final = 0.01  # of the sends; perf_analyzer warns there
STARTS_APART_MS: Final = 250  # a process on a busy machine may lose its core for a tenth of a second


def in_flight_limit(run: RunSummary) -> Fields | None:
    unsent = run.generator.unsent
    return {"unsent": unsent, "limit": run.load.get("max_in_flight", 10_000)} if unsent else None


def connection_limit(run: RunSummary) -> Fields | None:
    found = []
    if run.interference and run.interference.full:
        found.append("the balancer took no more connections for a time")
    if full_s := run.generator.streams_full:
        found.append(f"all streams of a worker's connections were in use in {full_s} of its readings")
    return {"message": " and ".join(found).capitalize()} if found else None


def late_sends(run: RunSummary) -> Fields | None:
    late = run.generator.late
    if late is None or late.over <= LATE_SHARE * late.of or late.low <= LATE_SHARE:
        return None
    return {**dict(late), "share": percent(late.over / late.of, digits=1)}


def saturated(run: RunSummary) -> Fields | None:
    generator, found = run.generator, []
    # The median over the window: one busy second is not saturation.
    cpu, late_ms = generator.cpu_percent_median, generator.lateness_ms_p50_worst
    # An open loop spins before each send, and at a high rate all the time: it is busy when it falls behind its plan.
    in_time = late_ms is not None and late_ms <= BEHIND_MS
    if cpu is not None and cpu > SATURATED_CPU_PERCENT and not in_time:
        found.append(f"used {cpu:.0f} % of a core or more for half of the window")
    stood, waited = generator.stood, generator.waited.mean if generator.waited else 0
    # A loop that had no core could not run: that is the machine's lack, for which there are other reasons.
    if stood and stood.mean - waited > STOOD_PERCENT and (stood.low or 0) - waited > STOOD_BOUND:
        found.append(f"stood still for {stood.mean:.0f} % of the window")
    if (gc := generator.gc) and gc.mean > GC_PERCENT and (gc.low or 0) > GC_BOUND:
        found.append(f"collected garbage for {gc.mean:.0f} % of it")
    return {"message": " and ".join(found)} if found else None


def started_apart(run: RunSummary) -> Fields | None:
    apart_ms = run.generator.starts_apart_ms
    if apart_ms is None or apart_ms <= STARTS_APART_MS + run.generator.clock_bound_ms_max:
        return None
    return {"apart_ms": apart_ms}


def near_ceiling(run: RunSummary) -> Fields | None:
    share, low = run.generator.ceiling_share, run.generator.ceiling_share_low
    if share is None or not _surely(share, low, NEAR_CEILING, NEAR_CEILING_BOUND):
        return None
    return {"share": percent(share), "ceiling_rps": run.generator.ceiling_rps}


def mostly_floor(run: RunSummary) -> Fields | None:
    share, low = run.generator.floor_share, run.generator.floor_share_low
    if share is None or not _surely(share, low, MOSTLY_FLOOR, MOSTLY_FLOOR_BOUND):
        return None
    return {"share": percent(share), "floor_ms": figure(run.generator.floor_p50_ms)}


def _surely(share: float, low: float | None, least: float, bound: float) -> bool:
    """The share is that large, and its 99 % bound excludes the smaller one."""
    return share >= least and low is not None and low > bound
