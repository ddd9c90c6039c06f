"""What happens to each request, whatever the protocol: its arrival, the lie it is told, its departure, and the log."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Final, TextIO

import numpy as np

from loadproof_server.dataplane import metric_names
from loadproof_server.dataplane.metrics import Metrics
from tests.truth.alarm import Alarm
from tests.truth.service import Service

ID_HEADER: Final = "x-loadproof-id"
MODEL: Final = "double"
FLOATS: Final = 64  # of the input that the metadata tells; any shape is served
# error: the protocol's own, in gRPC's trailers under HTTP 200; wrong: a number; short: a number less; garbage: no
# answer of the protocol; drop: the connection is closed without a byte; cut: in the middle of the answer; stall: no
# answer for --stall-s.
LIES: Final = ("error", "wrong", "short", "garbage", "drop", "cut", "stall")
TRUTHFUL_PHASES: Final = (".r", ".a")  # references and audit are no lies' business: they end a run before it begins


@dataclass
class Visit:
    """One request in the house; times are monotonic ns."""

    name: str
    protocol: str
    peer: str
    did: str  # "ok", or the lie that it is told
    arrived_ns: int
    begun_ns: int
    due_ns: int
    left_ns: int | None = None  # just before the answer goes to the transport; null: it has not, or was given up


@dataclass
class Habits:
    """When to lie: each `every`-th request of the load (0: none) or a `share` of them gets the next of `lies`."""

    lies: list[str]
    every: int = 0
    share: float = 0
    stall_s: float = 60


class House:
    """The server without its protocols; one event loop's thread uses it."""

    def __init__(self, service: Service, habits: Habits, log: TextIO | None, log_first: bool = False) -> None:
        self.alarm = Alarm()
        self.metrics = Metrics()
        self._model = self.metrics.add_model(MODEL, "1", streams=1)
        self._service, self._habits, self._log, self._log_first = service, habits, log, log_first
        self._random = random.Random(service.seed + 1)
        self._seen = self._lied = 0

    def arrive(self, name: str, protocol: str, peer: str, content: bytes) -> Visit:
        """A request came in whole; `protocol` is "grpc" or "rest", `content` its input."""
        now_ns = time.monotonic_ns()
        begun_ns, due_ns = self._service.admit(now_ns, content, not name.endswith(TRUTHFUL_PHASES))
        self._model.current_requests += 1
        return Visit(name, protocol, peer, self._deed(name), now_ns, begun_ns, due_ns)

    async def serve(self, visit: Visit) -> None:
        """Takes the time that its service takes; a request that the client gives up meanwhile is logged as such."""
        try:
            if visit.did == "stall":
                self._write(visit)
                await asyncio.sleep(self._habits.stall_s)
            await self.alarm.until(visit.due_ns)
        except asyncio.CancelledError:
            self._count(visit, time.monotonic_ns(), success=False)
            if visit.did != "stall":
                self._write(visit)
            raise

    def leave(self, visit: Visit) -> None:
        """The answer is ready and goes out next: the last that is done before that. The log is written after it.

        But for `log_first`: a server that is killed between the two would have answered what its log does not know.
        """
        visit.left_ns = time.monotonic_ns()
        self._count(visit, visit.left_ns, success=visit.did not in ("error", "drop", "cut"))
        if visit.did != "stall" and self._log_first:
            self._write(visit)
        elif visit.did != "stall":
            asyncio.get_running_loop().call_soon(self._write, visit)

    def _deed(self, name: str) -> str:
        if name.endswith(TRUTHFUL_PHASES):
            return "ok"
        self._seen += 1
        habits = self._habits
        if not (habits.every and self._seen % habits.every == 0) and self._random.random() >= habits.share:
            return "ok"
        self._lied += 1
        return habits.lies[self._lied % len(habits.lies)]

    def _count(self, visit: Visit, now_ns: int, success: bool) -> None:
        model = self._model
        model.current_requests -= 1
        interface = model.interfaces[metric_names.GRPC if visit.protocol == "grpc" else metric_names.REST]
        interface.success += success
        interface.fail += not success
        interface.request_time.observe((now_ns - visit.arrived_ns) / 1000)
        model.wait_time.observe((visit.begun_ns - visit.arrived_ns) / 1000)
        model.inference_time.observe(max(0, visit.due_ns - visit.begun_ns) / 1000)

    def _write(self, visit: Visit) -> None:
        """At once, so that the log outlives a server that is killed."""
        if self._log:
            times = {name: getattr(visit, name) for name in ("arrived_ns", "begun_ns", "due_ns", "left_ns")}
            entry = {"id": visit.name, "protocol": visit.protocol, "peer": visit.peer, "did": visit.did, **times}
            self._log.write(json.dumps(entry) + "\n")
            self._log.flush()


def double(raw: bytes, deed: str) -> bytes:
    """The model: twice the input (FP32); one number is off for `wrong`, the last is missing for `short`."""
    y = np.frombuffer(raw, "<f4") * np.float32(2)
    if deed == "wrong":
        y[-1] += np.float32(1)
    return (y[:-1] if deed == "short" else y).tobytes()
