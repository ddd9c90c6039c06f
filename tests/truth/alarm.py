"""Wakes coroutines at a moment of the monotonic clock, some 0.1 ms late; event loops themselves count milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import os
import time
from typing import Final

_TFD_TIMER_ABSTIME: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """One timerfd for all who sleep; needs a running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._loop.add_reader(self._fd, self._ring)

    async def until(self, due_ns: int) -> None:
        """Returns at `due_ns` (time.monotonic_ns) or later, never earlier."""
        if due_ns <= time.monotonic_ns():
            return
        sleeper = self._loop.create_future()
        heapq.heappush(self._sleepers, (due_ns, next(self._numbers), sleeper))
        if self._sleepers[0][2] is sleeper:
            self._set(due_ns)
        await sleeper

    def _set(self, due_ns: int) -> None:
        value = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(due_ns, 1_000_000_000)))
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(value), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _ring(self) -> None:
        os.read(self._fd, 8)
        now_ns = time.monotonic_ns()
        while self._sleepers and (self._sleepers[0][0] <= now_ns or self._sleepers[0][2].done()):
            sleeper = heapq.heappop(self._sleepers)[2]
            if not sleeper.done():  # else it was cancelled
                sleeper.set_result(None)
        if self._sleepers:
            self._set(self._sleepers[0][0])
