"""CPU time, memory and throttling of the server's container, as its engine says them each second, as samples."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa

from loadproof.collect.scrape import rows
from loadproof.rundir import SAMPLES

SOURCE: Final = "container"


class ContainerUsage:
    """The samples of one container, under cAdvisor's names; `take` may be called from another thread than `table`."""

    def __init__(self) -> None:
        self._engine_ns, self._seen_ns = array("q"), array("q")
        self._values: dict[str, array[float]] = {}
        self._lock = threading.Lock()

    def take(self, stats: Mapping[str, Any], seen_monotonic_ns: int) -> None:
        """One object of the engine's stats stream (Docker's API, ContainerStats), at the moment when it came."""
        values = read(stats)
        if values is None:
            return
        with self._lock:
            self._engine_ns.append(_ns(stats["read"]))
            self._seen_ns.append(seen_monotonic_ns)
            for name, value in values.items():
                self._values.setdefault(name, array("d")).append(value)

    def table(self, t0_monotonic_ns: int) -> pa.Table:
        """As rundir.SAMPLES, at the engine's own times, put on our clock by the sample that came soonest after its own.

        So a sample that was only delivered late does not look like one second's work done in less.
        """
        with self._lock:
            engine_ns, seen_ns = np.array(self._engine_ns, np.int64), np.array(self._seen_ns, np.int64)
            if not len(seen_ns):
                return SAMPLES.empty_table()
            times_ns = engine_ns + (seen_ns - engine_ns).min()
            parts = [
                rows(SOURCE, (name, "{}"), times_ns, t0_monotonic_ns, values) for name, values in self._values.items()
            ]
        return pa.concat_tables(parts)


def read(stats: Mapping[str, Any]) -> dict[str, float] | None:
    """The samples of one stats object; None for a container that does not run (yet, or any more).

    Memory is what Docker's own `docker stats` shows: without the page cache that can be dropped at once.
    """
    cpu, memory = stats.get("cpu_stats") or {}, stats.get("memory_stats") or {}
    used_ns = (cpu.get("cpu_usage") or {}).get("total_usage")
    if stats.get("read", "0001").startswith("0001") or used_ns is None or "usage" not in memory:
        return None
    detail, throttling = memory.get("stats") or {}, cpu.get("throttling_data") or {}
    cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))  # cgroup v1, v2
    return {
        "container_cpu_usage_seconds_total": used_ns / 1e9,
        "container_memory_working_set_bytes": float(max(0, memory["usage"] - cache)),
        "container_cpu_cfs_periods_total": float(throttling.get("periods", 0)),
        "container_cpu_cfs_throttled_periods_total": float(throttling.get("throttled_periods", 0)),
        "container_cpu_cfs_throttled_seconds_total": throttling.get("throttled_time", 0) / 1e9,
    }


def _ns(text: str) -> int:
    """Unix time of the engine's RFC 3339 stamp, to the microsecond."""
    return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000
