"""The workers as the master sees them: who they are, what they reported, what arrived, and whether they still live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import psutil
from gevent.event import Event
from gevent.queue import Queue
from locust.dispatch import UsersDispatcher

from clients.load import messages
from clients.records import UNSENT
from clients.spool import Receiver

SILENT_S_MAX: Final = 10.0  # a worker reports twice a second
PINGS: Final = 5


class SpawnOnce(UsersDispatcher):  # type: ignore[misc]
    """Locust's dispatcher without rebalancing: users are spread once, and a lost worker's are not started elsewhere.

    Locust's `enable_rebalancing` covers only one of the ways in which its master starts users again; all ask these.
    """

    @property
    def dispatch_in_progress(self) -> bool:
        return True

    def add_worker(self, worker_node: Any) -> None:
        """A late worker gets no users."""

    def remove_worker(self, worker_node: Any) -> None:
        """A lost worker's users are lost."""


class Node:
    """One worker. `number` counts from 1; times in `offset_ns` are its clock less ours."""

    def __init__(self, identity: str, number: int, hello: dict[str, Any], records: Path) -> None:
        self.identity = identity
        self.number = number
        self.pid: int = hello["pid"]
        self.host: str = hello["host"]
        self.version: str = hello["version"]
        self.same_clock = hello["clock"] == messages.clock()
        self.offset_ns = 0
        self.round_trip_ns = 0
        self.clients = 0
        self.first_client = 0
        self.counts = dict.fromkeys(messages.COUNTS, 0)
        self.part_taken, self.loaded, self.armed = Event(), Event(), Event()
        self.pongs: Any = Queue()
        self.done = False
        self.lost: str | None = None
        self.heard_s = time.monotonic()
        self.receiver = Receiver(records)
        self._spool = Path(hello["spool"])
        self._process = _process(self.pid) if hello["machine"] == messages.machine() else None

    @property
    def over(self) -> bool:
        """Nothing more is expected of it."""
        return self.done or self.lost is not None

    @property
    def dead(self) -> str | None:
        """Says so where it is a process of this machine that is gone: at once, where heartbeats take seconds."""
        if self._process is not None and not _lives(self._process):
            return f"worker {self.number} (pid {self.pid}) died"
        return None

    @property
    def silent(self) -> str | None:
        """Says so where its reports stopped coming: hung, or cut off."""
        if time.monotonic() - self.heard_s > SILENT_S_MAX:
            return f"worker {self.number} (pid {self.pid} on {self.host}) was not heard of for {SILENT_S_MAX:g} s"
        return None

    def recover(self) -> None:
        """Reads what a lost worker on this machine left in its spool file."""
        if self._process is None or not self._spool.exists():
            return
        rows = self.receiver.recover(self._spool)
        unsent = self.receiver.count(UNSENT)
        self.counts |= {"sent": max(self.counts["sent"], self.receiver.rows - unsent), "unsent": unsent}
        if not _lives(self._process):
            self._spool.unlink(missing_ok=True)
        self.lost = f"{self.lost}; {rows} records were recovered from its spool file"

    def measure_clock(self, send: Any) -> None:
        """Round trip and clock offset, from the quickest of some exchanges (Cristian 1989: the reply is its middle)."""
        best_ns = 2**62
        for number in range(PINGS):
            sent_ns = time.monotonic_ns()
            send(messages.PING, {"number": number}, self.identity)
            worker_ns, received_ns = self.pongs.get(timeout=10)
            if received_ns - sent_ns < best_ns:
                best_ns = received_ns - sent_ns
                self.offset_ns = 0 if self.same_clock else worker_ns - (sent_ns + received_ns) // 2
        self.round_trip_ns = best_ns

    def summary(self) -> dict[str, Any]:
        """Its entry in load.json and in the `end` event."""
        return {
            "worker": self.number,
            "pid": self.pid,
            "host": self.host,
            "first_client": self.first_client,
            "clients": self.clients,
            "sent": self.counts["sent"],
            "unsent": self.counts["unsent"],
            "records": self.receiver.rows,
            "complete": self.done,
        }


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _lives(process: psutil.Process) -> bool:
    """A zombie is dead: its parent, not the master, has to reap it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
