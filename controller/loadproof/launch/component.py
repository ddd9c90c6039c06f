"""A server or balancer as a run sees it: a process, a container, or one that was started by somebody else."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from loadproof.errors import LoadproofError
from loadproof.launch.ports import refusal

if TYPE_CHECKING:  # a worker that joins from elsewhere has no Arrow
    import pyarrow as pa

TAIL_LINES: Final = 15
PROBE_INTERVAL_S: Final = 1.0
UNREACHABLE_S: Final = 2.0  # without a connection for so long: it is dead, or cut off


class Component(ABC):
    """`command` is what we started it with, if we did.

    Leaving the context stops what the constructor or `__enter__` started.
    """

    name: str
    command: list[str] | None = None
    log: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def died(self) -> str | None:
        """How it ended, if it ended without having been stopped; None while it runs."""

    @abstractmethod
    def stop(self) -> object:
        """End it, if it is ours to end."""

    def tail(self) -> str:
        """The last lines of its log, where we have it."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]) if self.log else ""
        return ""

    def pids(self) -> list[int] | None:
        """Its first processes on this machine, [] where it is on another; None: it may be here, and is not visible."""
        return None

    def facts(self) -> dict[str, Any]:
        """What belongs into run.json in addition to its command, as JSON; asked once, after it was stopped."""
        return {}

    def samples(self, t0_monotonic_ns: int) -> pa.Table | None:
        """What was sampled of it in addition to its /metrics, as rundir.SAMPLES."""
        return None

    def require_alive(self, cure: str) -> None:
        """Raises LoadproofError with the log's tail when it has ended by itself."""
        if how := self.died():
            where = f" (log: {self.log})" if self.log else ""
            raise LoadproofError(f"{how}; {cure}{where}", self.tail())

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, cure: str) -> None:
        """Poll `ready` until it holds; LoadproofError when the component dies first or `timeout_s` passes."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            self.require_alive(cure)
            if time.monotonic() > deadline_s:
                raise LoadproofError(f"{self.name} was not ready after {timeout_s:.0f} s; {cure}", self.tail())
            time.sleep(0.02)


class RemoteComponent(Component):
    """One that somebody else started: its process is not visible, and a connection to its port shows that it lives."""

    def __init__(self, name: str, address: str, facts: dict[str, Any] | None = None) -> None:
        self.name, self._address, self._facts = name, address, facts or {}
        self._next_s = 0.0

    def died(self) -> str | None:
        """Why it takes no connections, after UNREACHABLE_S; a listening socket answers even while its process is busy.

        One that came back in between, as a restarted container does, is found by its counters.
        """
        if time.monotonic() < self._next_s:
            return None
        until_s = time.monotonic() + UNREACHABLE_S
        while why := refusal(self._address):
            if time.monotonic() > until_s:
                return f"{self.name} at {self._address} takes no connections any more ({why})"
            time.sleep(0.2)
        self._next_s = time.monotonic() + PROBE_INTERVAL_S
        return None

    def stop(self) -> None:
        """It is not ours."""

    def facts(self) -> dict[str, Any]:
        return self._facts

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, cure: str) -> None:
        """As of any component, but one that does not answer yet may be starting."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline_s:
                why = refusal(self._address) or "it is not ready"
                raise LoadproofError(f"{self.name} at {self._address}: {why} after {timeout_s:.0f} s; {cure}")
            time.sleep(0.2)
