"""How busy this load-generating process is: a row about each second."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil


class Health:
    """CPU between two rows (percent of one core, all threads) and resident memory."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._t0_ns: int | None = None
        self._read_ns = self._cpu_ns = 0
        self._sums: dict[str, float] = {}

    def begin(self, t0_ns: int) -> None:
        """T0 (monotonic ns): rows are made from now on, their times count from it."""
        self._t0_ns = t0_ns
        self._read_ns, self._cpu_ns = time.monotonic_ns(), _cpu_ns()

    def row(self, **sums: float) -> dict[str, Any] | None:
        """`time_s`, `cpu_percent`, `rss_bytes`, and by how much `sums` grew, once a second; else and before T0 None."""
        now_ns = time.monotonic_ns()
        if self._t0_ns is None or now_ns - self._read_ns < 900_000_000:
            return None
        cpu_ns = _cpu_ns()
        percent = (cpu_ns - self._cpu_ns) / (now_ns - self._read_ns) * 100
        self._read_ns, self._cpu_ns = now_ns, cpu_ns
        grown = {name: round(total - self._sums.get(name, 0), 1) for name, total in sums.items()}
        self._sums = sums
        return {
            **grown,
            "time_s": round((now_ns - self._t0_ns) / 1e9, 3),
            "cpu_percent": round(percent, 1),
            "rss_bytes": self._process.memory_info().rss,
        }


def _cpu_ns() -> int:
    times = os.times()
    return round((times.user + times.system) * 1e9)
