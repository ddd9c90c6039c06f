"""A server or balancer as a run sees it: a process, a container, or one that stood there already."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from loadproof.errors import LoadproofError

if TYPE_CHECKING:  # a worker that joins from elsewhere has no Arrow
    import pyarrow as pa

TAIL_LINES = 15


class Party(ABC):
    """`command` is what we started it with, if we did; leaving the context ends what entering or making it began."""

    name: str
    command: list[str] | None = None
    log: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def died(self) -> str | None:
        """How it ended, if it ended without being told to; None while it runs."""

    @abstractmethod
    def stop(self) -> object:
        """End it, if it is ours to end."""

    def tail(self) -> str:
        """The last lines of its log, where we have it."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]) if self.log else ""
        return ""

    def pids(self) -> list[int] | None:
        """Its first processes on this machine, [] where it is on another; None: it may be here, out of sight."""
        return None

    def facts(self) -> dict[str, Any]:
        """What belongs into run.json beside its command, as JSON; asked once, after it was stopped."""
        return {}

    def samples(self, t0_monotonic_ns: int) -> pa.Table | None:
        """What was sampled of it beside its /metrics, as rundir.SAMPLES."""
        return None

    def require_alive(self, cure: str) -> None:
        """Raises LoadproofError with the log's tail when it has ended by itself."""
        if how := self.died():
            where = f" (log: {self.log})" if self.log else ""
            raise LoadproofError(f"{how}; {cure}{where}", self.tail())

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, cure: str) -> None:
        """Poll `ready` until it holds; LoadproofError when the party dies first or `timeout_s` passes."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            self.require_alive(cure)
            if time.monotonic() > deadline:
                raise LoadproofError(f"{self.name} was not ready after {timeout_s:.0f} s; {cure}", self.tail())
            time.sleep(0.02)
