"""How this load-generating process fares: a row about each second of its CPU, its event loop, its clock, its pauses."""

from __future__ import annotations

import gc
import os
import time
from typing import Any, Final

import gevent
import psutil

from loadproof_clients.kernel import thread_waits_ns, wall_ns

LAG_PERIOD_S: Final = 0.02  # 50 looks a second at how late the loop wakes a timer: 0.3 % of a core
LATE_MS: Final = 10.0  # gevent's timers are some ms late by themselves


class Lag:
    """How late the event loop wakes a timer that is due each LAG_PERIOD_S: nothing else of the process ran meanwhile.

    What is over LATE_MS counts as standing still. A loop that stands for half a second wakes this once, half a second
    late: so time is counted, not wake-ups.
    """

    def __init__(self) -> None:
        self.max_ms = self.stood_ms = 0.0
        gevent.spawn(self._watch)

    def _watch(self) -> None:
        while True:
            due_ns = time.monotonic_ns() + round(LAG_PERIOD_S * 1e9)
            gevent.sleep(LAG_PERIOD_S)
            lag_ms = (time.monotonic_ns() - due_ns) / 1e6
            self.max_ms = max(self.max_ms, lag_ms)
            self.stood_ms += max(0.0, lag_ms - LATE_MS)

    def take(self) -> tuple[float, float]:
        """The longest lag and how long the loop stood still, in ms, since the last call."""
        taken = self.max_ms, self.stood_ms
        self.max_ms = self.stood_ms = 0.0
        return taken


class Pauses:
    """Garbage collections, while nothing else of the process runs; ms."""

    def __init__(self) -> None:
        self.ms = 0.0
        self._began_ns = 0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began_ns = time.perf_counter_ns()
        else:
            self.ms += (time.perf_counter_ns() - self._began_ns) / 1e6


class Health:
    """Rows about the second before: see `row`."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._t0_ns: int | None = None
        self._read_ns = self._cpu_ns = 0
        self._waited_ns: dict[str, int] = {}
        self._sums: dict[str, float] = {}

    def begin(self, t0_ns: int) -> None:
        """T0 (monotonic ns): rows are made from now on, their times count from it."""
        self._t0_ns = t0_ns
        self._read_ns, self._cpu_ns, self._waited_ns = time.monotonic_ns(), _cpu_ns(), thread_waits_ns()
        self._lag, self._pauses = Lag(), Pauses()

    def row(self, **sums: float) -> dict[str, Any] | None:
        """The columns of rundir.GENERATOR that a process knows of itself, once a second; else and before T0 None.

        `sums`: by how much each grew since the row before.
        """
        now_ns = time.monotonic_ns()
        if self._t0_ns is None or now_ns - self._read_ns < 900_000_000:
            return None
        cpu_ns, waited_ns, seconds = _cpu_ns(), thread_waits_ns(), (now_ns - self._read_ns) / 1e9
        # A thread that ended took its wait with it; a new one counts from 0.
        waits = sum(max(0, wait - self._waited_ns.get(thread, 0)) for thread, wait in waited_ns.items())
        lag_ms, stood_ms = self._lag.take()
        sums["gc_ms"] = self._pauses.ms
        row = {
            **{name: round(total - self._sums.get(name, 0), 2) for name, total in sums.items()},
            "time_s": round((now_ns - self._t0_ns) / 1e9, 3),
            "cpu_percent": round((cpu_ns - self._cpu_ns) / seconds / 1e7, 1),
            "wait_percent": round(waits / seconds / 1e7, 1),
            "lag_ms": round(lag_ms, 2),
            "stood_ms": round(stood_ms, 2),
            "wall_ns": wall_ns(),
            "rss_bytes": self._process.memory_info().rss,
        }
        self._read_ns, self._cpu_ns, self._waited_ns, self._sums = now_ns, cpu_ns, waited_ns, sums
        return row


def _cpu_ns() -> int:
    times = os.times()
    return round((times.user + times.system) * 1e9)
