"""What the kernel shows of clocks and threads, read the same way by the load generator and by the controller."""

from __future__ import annotations

import os
import time
from pathlib import Path


def wall_ns() -> int:
    """The wall clock less the monotonic clock: it changes only where the wall clock is set.

    The middle of two readings of the monotonic clock is taken for the moment of the wall clock's: of three tries the
    one whose two readings are closest, so that the error is at most half of that.
    """
    readings = []
    for _ in range(3):
        before_ns, now_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after_ns - before_ns, now_ns - (before_ns + after_ns) // 2))
    return min(readings)[1]


def thread_waits_ns(process: Path = Path("/proc/self")) -> dict[str, int]:
    """How long each thread of a process was ready to run and had no core (proc(5), schedstat).

    Without those that end meanwhile; {}: the process has ended, or the kernel does not keep these statistics.
    """
    waits = {}
    for thread in thread_names(process):
        spent = read(process / "task" / thread / "schedstat").split()
        if len(spent) == 3 and all(text.isdecimal() for text in spent):
            waits[thread] = int(spent[1])
    return waits


def thread_names(process: Path) -> list[str]:
    """The numbers of a process's threads; none where it has ended."""
    try:
        return os.listdir(process / "task")
    except OSError:
        return []


def read(path: Path) -> str:
    """The text of a small file, stripped; "" where there is none, or the process ended."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
