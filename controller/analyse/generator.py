"""The load generator's own state inside the window: CPU, memory, connections, lateness, what checking costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from controller import rundir
from controller.analyse import statistics
from controller.analyse.population import Records, Window


def state(directory: Path, facts: Mapping[str, Any], records: Records, window: Window) -> dict[str, Any]:
    """`generator` of a RUN. CPU is in percent of one core, of the busiest worker; null where nothing was recorded."""
    table = rundir.read_generator(directory)
    time_s = table["time_s"].to_numpy()
    # A reading tells of the second before it.
    inside = table.filter(pa.array((time_s * 1e9 > window.start) & (time_s * 1e9 <= window.end + 1e9)))
    cpu, worker = inside["cpu_percent"].to_numpy(), inside["worker"].to_numpy()
    medians = [float(np.median(cpu[worker == one])) for one in np.unique(worker)]
    return {
        "workers": len(facts.get("workers", [])),
        "cpu_percent_max": float(cpu.max()) if len(cpu) else None,
        "cpu_percent_median": max(medians, default=None),
        "rss_bytes_max": pc.max(table["rss_bytes"]).as_py(),
        "in_flight_max": pc.max(inside["in_flight"]).as_py(),
        "connections_max": _most_at_once(inside),
        "verify_us_per_request": _share(pc.sum(table["verify_us"]).as_py(), records.sent),
        "ship_cpu_percent": _ship_cpu_percent(table),
        "unsent": int(records.unsent.sum()),
        **_lateness(records),
    }


def _lateness(records: Records) -> dict[str, float | None]:
    """Planned to sent of the window's requests, in ms; a closed loop has none: each is sent when it is due."""
    names = {"lateness_ms_p50": 0.5, "lateness_ms_p99": 0.99}
    if not records.is_open:
        return {**dict.fromkeys(names), "lateness_ms_max": None}
    late = np.sort(records.lateness_ns(records.measured & ~records.unsent))
    return {
        **{name: _ms(statistics.nearest_rank(late, p)) for name, p in names.items()},
        "lateness_ms_max": _ms(float(late[-1])) if len(late) else None,
    }


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
