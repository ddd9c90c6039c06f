"""Wakes a greenlet at a moment of the monotonic clock; gevent's own timers count milliseconds, a timerfd does not."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Final

from gevent.os import nb_read

_TFD_TIMER_ABSTIME: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)  # Python has os.timerfd_create from 3.13 on


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """One timer, for one greenlet at a time."""

    def __init__(self) -> None:
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def sleep_until(self, due_ns: int) -> None:
        """Returns at `due_ns` (time.monotonic_ns) or later, never earlier; other greenlets run meanwhile."""
        value = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(due_ns, 1_000_000_000)))
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(value), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        nb_read(self._fd, 8)

    def close(self) -> None:
        """No more alarms."""
        os.close(self._fd)
