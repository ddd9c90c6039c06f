"""The load generator's own state inside the window: CPU, event loop, pauses, connections, lateness, common start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loadproof import rundir
from loadproof.analyse import machine, statistics
from loadproof.analyse.headroom import Headroom
from loadproof.analyse.population import Records, Window
from loadproof.analyse.schema import Generator, Late, WorstShare

LATE_MS: Final = 10.0  # perf_analyzer's measure of a late send
STREAMS_MAX: Final = 10_000  # of a connection through the balancer: haproxy.cfg's tune.h2.max-concurrent-streams


class Lateness(NamedTuple):
    """Planned to sent of the window's requests, in ms; `p50_worst` is of the worker whose median is the highest."""

    p50_worst: float | None = None
    p50: float | None = None
    p99: float | None = None
    max: float | None = None


def state(directory: Path, facts: Mapping[str, Any], records: Records, window: Window, headroom: Headroom) -> Generator:
    """`generator` of a RUN. CPU is in percent of one core, of the busiest worker; null where nothing was recorded.

    `clock_bound_ms_max` is how far a worker's stamps can be off beside the balancer's; 0 where all read its clock.
    `stood`, `gc`, `waited`: share of the window in which the event loop stood still, garbage was collected, threads had
    no core, each {mean, low} of the worst worker in percent. `clock_steps_ms`: by how much each worker's wall clock was
    set. `streams_full`: seconds in which a worker had as many requests in flight as its connections have streams, or
    reported one that waited for a stream.
    """
    table = rundir.read_generator(directory)
    time_s = table["time_s"].to_numpy()
    # A reading is of the second before it.
    inside = table.filter(pa.array((time_s * 1e9 > window.start) & (time_s * 1e9 <= window.end + 1e9)))
    cpu, worker = inside["cpu_percent"].to_numpy(), inside["worker"].to_numpy()
    medians = [float(np.median(cpu[worker == one])) for one in np.unique(worker)]
    bounds_ns = (one.get("offset_bound_ns", 0) for one in facts.get("workers", []))
    lateness = _lateness(records)
    return Generator(
        workers=len(facts.get("workers", [])),
        cpu_percent_max=float(cpu.max()) if len(cpu) else None,
        cpu_percent_median=max(medians, default=None),
        rss_bytes_max=pc.max(table["rss_bytes"]).as_py(),
        in_flight_max=pc.max(inside["in_flight"]).as_py(),
        connections_max=_most_at_once(inside),
        verify_us_per_request=_share(pc.sum(table["verify_us"]).as_py(), records.sent),
        ship_cpu_percent=_ship_cpu_percent(table),
        unsent=int(records.unsent.sum()),
        clock_bound_ms_max=max(bounds_ns, default=0) / 1e6,
        stood=_percent(inside, "stood_ms", 10),
        gc=_percent(inside, "gc_ms", 10),
        waited=_percent(inside, "wait_percent", 1),
        wait_ms_per_request=_wait_ms_per_request(inside, records),
        clock_steps_ms=machine.clock_steps(table),
        streams_full=_streams_full(inside),
        starts_apart_ms=_starts_apart_ms(records),
        late=_late(records),
        lateness_ms_p50=lateness.p50,
        lateness_ms_p99=lateness.p99,
        lateness_ms_p50_worst=lateness.p50_worst,
        lateness_ms_max=lateness.max,
        ceiling_rps=headroom.ceiling_rps,
        ceiling_share=headroom.ceiling_share,
        ceiling_share_low=headroom.ceiling_share_low,
        floor_p50_ms=headroom.floor_p50_ms,
        floor_share=headroom.floor_share,
        floor_share_low=headroom.floor_share_low,
    )


def _percent(inside: pa.Table, name: str, per_percent: float) -> WorstShare | None:
    """Mean and lower bound of the worker with the highest mean; `per_percent` of the column are a percent of a second.

    None where it was not recorded; no bound with fewer than 10 readings.
    """
    rows = inside.filter(inside[name].is_valid())
    worker, values = rows["worker"].to_numpy(), rows[name].to_numpy() / per_percent
    worst = max((values[worker == one] for one in np.unique(worker)), key=np.mean, default=None)
    if worst is None:
        return None
    bounds = statistics.mean_bounds(worst)
    return WorstShare(mean=float(worst.mean()), low=bounds[0] if bounds else None)


def _wait_ms_per_request(inside: pa.Table, records: Records) -> float | None:
    """What all threads of the workers waited for a core, by the requests of the window."""
    total = pc.sum(inside["wait_percent"]).as_py()  # a reading is of about a second: a percent of it is 10 ms
    return _share(None if total is None else total * 10, int((records.measured & ~records.unsent).sum()))


def _streams_full(inside: pa.Table) -> int:
    rows = inside.filter(inside["connections"].is_valid())
    connections = rows["connections"].to_numpy()
    full = (connections > 0) & (rows["in_flight"].to_numpy() >= STREAMS_MAX * connections)
    full |= rows["held"].fill_null(0).to_numpy() > 0
    return int(full.sum())


def _starts_apart_ms(records: Records) -> float | None:
    """Between the first and the last worker that began: from T0, or from when its first request was due. None: one."""
    load = records.phase("warmup") | records.measured
    began_ns = []
    for worker in np.unique(records.worker[load]):
        rows = np.flatnonzero(load & (records.worker == worker) & ~records.unsent)
        if len(rows):
            first = rows[np.argmin(records.sent_ns[rows])]
            began_ns.append(records.sent_ns[first] - (records.planned_ns[first] if records.is_open else 0))
    return float(max(began_ns) - min(began_ns)) / 1e6 if len(began_ns) > 1 else None


def _late(records: Records) -> Late | None:
    """How many of the window's sends were over LATE_MS late; None for a closed loop."""
    if not records.is_open:
        return None
    late_ns = records.lateness_ns(records.measured & ~records.unsent)
    over = int((late_ns > LATE_MS * 1e6).sum())
    return Late(over=over, of=len(late_ns), low=statistics.share_low(over, len(late_ns)))


def _lateness(records: Records) -> Lateness:
    """A closed loop has none: each request is sent when it is due."""
    if not records.is_open:
        return Lateness()
    sent = records.measured & ~records.unsent
    late, worker = records.lateness_ns(sent), records.worker[sent]
    medians = [float(np.median(late[worker == one])) for one in np.unique(worker)]
    late = np.sort(late)
    return Lateness(
        p50_worst=_ms(max(medians, default=None)),
        p50=_ms(statistics.nearest_rank(late, 0.5)),
        p99=_ms(statistics.nearest_rank(late, 0.99)),
        max=_ms(float(late[-1])) if len(late) else None,
    )


def _most_at_once(table: pa.Table) -> int | None:
    """Connections of all workers together, as most of each: their readings are not of the same moment."""
    most = table.group_by("worker").aggregate([("connections", "max")])["connections_max"]
    return pc.sum(most).as_py()  # type: ignore[no-any-return]


def _ship_cpu_percent(table: pa.Table) -> float | None:
    """Time spent on shipping records over the seconds recorded, in percent of one core, of the worst worker."""
    grouped = table.group_by("worker").aggregate([("ship_us", "sum"), ("time_s", "max")]).to_pylist()
    shares = [_share(row["ship_us_sum"], row["time_s_max"] * 1e4) for row in grouped]
    return max((share for share in shares if share is not None), default=None)


def _share(total: float | None, count: float) -> float | None:
    return None if total is None or not count else total / count


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6
