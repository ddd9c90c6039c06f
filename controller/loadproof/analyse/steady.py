"""Was the run steady? Trends over one-second blocks, a cold start, perf_analyzer's three windows, and Little's law."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.stats import theilslopes

from loadproof.analyse import statistics
from loadproof.analyse.population import Bools, Floats, Ints, Records, Window
from loadproof.analyse.schema import ColdStart, LittlesLaw, Steady, ThreeWindows, Trend

BLOCKS_MIN: Final = 10
BLOCKS_MAX: Final = 60
THREE_WINDOW_RATIO: Final = 1.1
COLD_BLOCKS: Final = 100


def steady(records: Records, window: Window) -> Steady:
    """`three_window`, and the trends of latency (each block's median) and of requests in flight (each block's mean)."""
    width_ns = max(1, -(-(window.end - window.start) // (BLOCKS_MAX * 10**9))) * 10**9
    count = (window.end - window.start) // width_ns
    rows = records.measured & records.good
    block = (records.planned_ns[rows] - window.start) // width_ns
    at, (medians,) = statistics.by_block(records.latency_ns(rows), block, (0.5,))
    whole = at < count
    flying = in_flight(records, window.start, width_ns, int(count))
    return Steady(
        block_s=width_ns / 1e9,
        three_window=three_window(records, window),
        latency=trend(at[whole].astype(float), medians[whole] / 1e6, int(count)),
        in_flight=trend(np.arange(len(flying), dtype=float), flying, int(count)),
    )


def trend(at: Floats, values: Floats, blocks: int) -> Trend | None:
    """How much `values` (one a block, at block numbers `at`) changed along `blocks` blocks, as a share of their median.

    `change` is Theil and Sen's slope, the median of the slopes between all pairs, `low` and `high` its bounds at 99 %
    confidence from Kendall's tau (Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968), each
    times the blocks. Neighbouring blocks that are correlated make the true bounds wider: judge by size as well. None
    with fewer than BLOCKS_MIN blocks.
    """
    if len(values) < BLOCKS_MIN or (middle := float(np.median(values))) <= 0:
        return None
    slope, _, low, high = theilslopes(values, at, alpha=statistics.CONFIDENCE)
    share = blocks / middle
    return Trend(
        median=middle,
        change=float(slope) * share,
        low=float(low) * share,
        high=float(high) * share,
        confidence=statistics.CONFIDENCE,
    )


def cold_start(records: Records) -> ColdStart | None:
    """The window's first hundredth of good answers beside the others, by their medians; None with fewer than 100.

    `first_ms`, `typical_ms` (the middle one of all hundredths), `slowest_ms` of the last ninety, so that what takes a
    while to warm up is compared with what came after, and `before_ms` of as many answers at the end of the warm-up,
    null where there are none. Were the order chance, the first of a hundred would be the slowest in one case of a
    hundred, however neighbours hang together: a permutation test at 99 %.
    """
    latency_ms = _in_order(records, records.measured & records.good)
    if len(latency_ms) < COLD_BLOCKS:
        return None
    blocks = np.array_split(latency_ms, COLD_BLOCKS)
    medians = np.array([np.median(block) for block in blocks])
    before_ms = _in_order(records, records.phase("warmup") & records.good)[-len(blocks[0]) :]
    return ColdStart(
        before_ms=float(np.median(before_ms)) if len(before_ms) else None,
        first_ms=float(medians[0]),
        typical_ms=float(np.median(medians)),
        slowest_ms=float(medians[COLD_BLOCKS // 10 :].max()),
    )


def _in_order(records: Records, rows: Bools) -> Floats:
    """The latencies of `rows` in ms, in the order in which they were due."""
    return np.asarray(records.latency_ns(rows)[np.argsort(records.planned_ns[rows], kind="stable")] / 1e6)


def three_window(records: Records, window: Window) -> ThreeWindows | None:
    """perf_analyzer's rule: in three equal windows, largest over smallest throughput and mean latency are <= 1.1.

    Good answers count for the throughput when they came, and for the latency when they were due. None where a third
    has none. Source: Triton's perf_analyzer, "Measurement Modes" (stability percentage 10, three measurements).
    """
    edges = np.linspace(window.start, window.end, 4)
    rows = records.measured & records.good
    came = np.histogram(records.received_ns[records.good], edges)[0]
    latency_ns = records.latency_ns(rows)
    third = np.clip(np.searchsorted(edges, records.planned_ns[rows], "right") - 1, 0, 2)
    due = np.bincount(third, minlength=3)
    if not came.all() or not due.all():
        return None
    mean_ms = np.bincount(third, latency_ns / 1e6, minlength=3) / due
    steadies = [bool(values.max() / values.min() <= THREE_WINDOW_RATIO) for values in (came, mean_ms)]
    return ThreeWindows(
        steady=all(steadies),
        throughput_rps=(came / (window.seconds / 3)).tolist(),
        latency_ms=mean_ms.tolist(),
    )


def in_flight(records: Records, start_ns: int, width_ns: int, blocks: int) -> Floats:
    """Mean number of requests between sent and received in each block from `start_ns` on: the exact time integral."""
    # What was never sent has both times at one moment: it adds nothing.
    at_start = int((records.sent_ns < start_ns).sum() - (records.received_ns < start_ns).sum())
    began, began_s = _steps(records.sent_ns, start_ns, width_ns, blocks)
    ended, ended_s = _steps(records.received_ns, start_ns, width_ns, blocks)
    level = at_start + np.concatenate([[0], np.cumsum(began - ended)[:-1]]) if blocks else np.empty(0)
    return np.asarray(level + (began_s - ended_s) / (width_ns / 1e9))


def littles_law(records: Records, window: Window) -> LittlesLaw | None:
    """Requests in flight (the exact time integral over the window) beside throughput times mean latency.

    L = lambda W (Little, "A Proof for the Queuing Formula L = lambda W", 1961) holds over a window but for what
    reaches over its edges (Little and Graves, 2008), for requests of any outcome. `rate_rps` counts those that ended
    inside, `latency_ms` is sent to received of those that were sent inside. None where there were none.
    """
    rows = ~records.unsent & window.holds(records.sent_ns)
    ended = int((~records.unsent & window.holds(records.received_ns)).sum())
    if not rows.any() or not ended or window.seconds <= 0:
        return None
    mean = float(in_flight(records, window.start, window.end - window.start, 1)[0])
    rate_rps, latency_s = ended / window.seconds, float(records.service_ns(rows).mean()) / 1e9
    return LittlesLaw(
        in_flight_mean=mean,
        rate_rps=rate_rps,
        latency_ms=latency_s * 1e3,
        ratio=rate_rps * latency_s / mean if mean > 0 else 1.0,
    )


def _steps(time_ns: Ints, start_ns: int, width_ns: int, blocks: int) -> tuple[Floats, Floats]:
    """In each block, how many of the times lie in it, and the seconds from each of them to its end, summed."""
    offset = time_ns - start_ns
    offset = offset[(offset >= 0) & (offset < blocks * width_ns)]
    block = offset // width_ns
    count = np.bincount(block, minlength=blocks).astype(float)
    left_s = np.bincount(block, ((block + 1) * width_ns - offset) / 1e9, minlength=blocks).astype(float)
    return count, left_s
