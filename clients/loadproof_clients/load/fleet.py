"""The workers as the master sees them: who they are, what they reported, what arrived, and whether they still live."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import gevent
import psutil
from gevent.event import Event
from gevent.queue import Queue

from loadproof_clients.load import clocks, messages
from loadproof_clients.load.clocks import Exchange, Reading
from loadproof_clients.records import UNSENT
from loadproof_clients.spec import Load
from loadproof_clients.spool import BadRecords, Receiver, spool_path

SILENT_S_MAX: Final = 10.0  # a worker reports twice a second
PONG_S_MAX: Final = 10.0


class Refusal(NamedTuple):
    """Why a worker is not taken, and whether the next run may take it."""

    message: str
    again: bool


def refusal(hello: dict[str, Any], here: Collection[Node], load: Load) -> Refusal | None:
    """None for a worker that is taken; those from elsewhere take no place of those that the controller starts."""
    who, own, other = f"the worker with pid {hello['pid']} on {hello['host']}", messages.version(), hello["version"]
    if other != own:
        return Refusal(f"{who} is Loadproof {other}, and the master is {own}: install {own} there", again=False)
    places = load.expect_workers if hello["joined"] else load.processes - load.expect_workers
    if sum(node.joined == hello["joined"] for node in here) < places:
        return None
    return Refusal(f"{who} is one too many: this run takes {places}", again=True)


def absent(here: Collection[Node], load: Load, where: str) -> str:
    """Who is still missing `where` the master listens, under the plan's key."""
    joined = sum(node.joined for node in here)
    if joined < load.expect_workers:
        start = f"start the others with `loadproof worker --master {where}`"
        return f"load.expect_workers: only {joined} of {load.expect_workers} workers came ({start})"
    return f"load.processes: only {len(here)} of {load.processes} workers came to {where}"


class NodeState(Enum):
    """What is still expected of a worker."""

    RUNNING = auto()
    DONE = auto()  # nothing: it delivered all its records
    LOST = auto()  # nothing: it ended, is cut off, or did not deliver what it should have


class Node:
    """One worker; `number` counts from 1.

    Its records go below `out`, where the spool file of a worker that the controller started is too. `count` gets each
    piece of records that comes, once `fault` has nothing to say against it; `health` is the last row of load.health
    that came; `why_lost` is the reason where the state is LOST.
    """

    def __init__(
        self,
        identity: str,
        number: int,
        hello: dict[str, Any],
        out: Path,
        count: Callable[[bytes], None] | None,
        fault: Callable[[Node, bytes], str | None],
    ) -> None:
        self.identity = identity
        self.number = number
        self.pid: int = hello["pid"]
        self.host: str = hello["host"]
        self.version: str = hello["version"]
        self.joined: bool = hello["joined"]
        self.same_clock = hello["clock"] == messages.clock()
        self.before: Reading | None = None
        self._after: Reading | None = None
        self.clients = 0
        self.first_client = 0
        self.counts = dict.fromkeys(messages.COUNTS, 0)
        self.health: dict[str, Any] = {}
        self.part_taken, self.loaded, self.armed = Event(), Event(), Event()
        self.pongs: Any = Queue()
        self.state = NodeState.RUNNING
        self.why_lost = ""
        self.heard_s = time.monotonic()
        self.health_s = float("-inf")  # when the last row of health came
        self.receiver = Receiver(out / "records" / f"worker-{number}.rec", count, partial(fault, self))
        self._spool = None if self.joined else spool_path(out, self.pid)
        self._process = _process(self.pid) if hello["machine"] == messages.machine() else None

    @property
    def local_pid(self) -> int | None:
        """Its process, where that is on this machine."""
        return self._process and self._process.pid

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
        """Reads what a lost worker that the controller started left in its spool file.

        The master chose that file's path: no worker can name another one.
        """
        if self._process is None or self._spool is None or not self._spool.is_file():
            return
        before = self.receiver.rows
        try:
            said = f"{self.receiver.recover(self._spool)} records were recovered from its spool file"
        except BadRecords as error:
            said = f"of its spool file only {self.receiver.rows - before} records can be: {error}"
        unsent = self.receiver.count(UNSENT)
        self.counts |= {"sent": max(self.counts["sent"], self.receiver.rows - unsent), "unsent": unsent}
        if not _lives(self._process):
            self._spool.unlink(missing_ok=True)
        self.why_lost = f"{self.why_lost}; {said}"

    def read_clock(self, send: Any) -> Reading:
        """Before the run: `before` is its clock less ours; raises TimeoutError where it does not answer."""
        pings = clocks.SAME_CLOCK_PINGS if self.same_clock else clocks.PINGS
        exchanges = [self._ping(send, number) for number in range(pings)]
        self.before = clocks.reading(exchanges, same_clock=self.same_clock)
        return self.before

    def read_clock_again(self, send: Any) -> None:
        """After the run: how far it has drifted; a worker that does not answer any more is believed to have drifted."""
        with contextlib.suppress(TimeoutError):
            exchanges = [self._ping(send, number) for number in range(clocks.PINGS)]
            self._after = clocks.reading(exchanges, same_clock=False)

    def _ping(self, send: Any, number: int) -> Exchange:
        sent_ns = time.monotonic_ns()
        send(messages.PING, {"number": number}, self.identity)
        with gevent.Timeout(PONG_S_MAX, TimeoutError(f"worker {self.number} did not answer a ping")):
            while True:
                answered, answered_ns, received_ns = self.pongs.get()
                if answered == number:
                    return Exchange(sent_ns, answered_ns, received_ns)

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
            "complete": self.state is NodeState.DONE,
            **(clocks.summary(self.before, self._after, time.monotonic_ns()) if self.before else {}),
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
