"""One run as one worker sees it: the window, what is sent next, and each request's way from send to record.

What is avoided on a request's way, by cProfile (one FP32 output of 256 B; Python 3.11, 2 cores): reading an answer
with the same bytes as one that was found right before (20 us over gRPC, 55 us over REST, where tritonclient defines two
classes for each answer; wire only: tritonclient hides the bytes), and Locust's request event where its UI is off
(8 us). What is left takes under 1 us each: the request 0.4, its id 0.4, its record 0.3.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import gevent
import numpy as np
from gevent.event import Event

from loadproof_clients.records import OK, PHASES, UNKNOWN_NS, UNSENT, request_id, status_name
from loadproof_clients.spec import LoadSpec
from loadproof_clients.spool import Spool
from loadproof_clients.tensors.matching import agree
from loadproof_clients.tensors.tensor import Tensors
from loadproof_clients.transport import Client, Exchange, Failure

WARMUP: Final = PHASES.index("warmup")
MEASURE: Final = PHASES.index("measure")
CHECKED_PERIOD: Final = 8192
CONNECT_TIMEOUT_S: Final = 10.0
NEVER_NS: Final = 2**62


class RequestFailed(Exception):
    """A request that failed or was answered wrong, as Locust's own statistics take it."""


class Request(NamedTuple):
    """What is known of a request before it is sent; `planned_ns` is monotonic ns of this machine."""

    planned_ns: int
    sequence: int
    client: int
    payload: int
    phase: int


class Session:
    """Shared by the clients of a worker: `send` (closed loop) or `leave` and `arrive` (open loop) are the hot path, all
    else happens before T0 or about twice a second. `arrive` is where a request's events become its record.

    `answers` are the reference outputs of each payload, or empty: then nothing is verified. `fire` is Locust's request
    event, or None where Locust's own statistics are not shown.
    """

    def __init__(
        self,
        spec: LoadSpec,
        worker: int,
        payloads: int,
        answers: Sequence[Tensors],
        make_client: Callable[[], Client],
        spool: Spool,
        fire: Callable[..., None] | None,
    ) -> None:
        self.spec = spec
        self.worker = worker
        self.spool = spool
        self.go = Event()  # set at T0
        self.landed = Event()  # open loop: the last request has ended
        self.given_up = False
        self.t0_ns = self.measure_ns = self.end_ns = self.give_up_ns = NEVER_NS
        self.first_client = 0
        self.payloads = payloads
        self.clients: list[Client] = []  # those that are connected
        self.trouble: str | None = None  # why a client could not connect
        self.sent = self.unsent = self.ok = self.failed = self.wrong = self.in_flight = 0
        self.verify_ns = 0  # spent on reading and comparing answers
        self.latest_ns = 0  # of the requests that ended since the last look, by how much the latest was sent late
        self._make_client = make_client
        self._answers = answers
        self._fire = fire
        self._order = random.Random(spec.load.seed).sample(range(payloads), payloads)
        share = spec.load.verify if answers else 0.0
        chances = np.random.default_rng((spec.load.seed, worker)).random(CHECKED_PERIOD)
        self._checked: list[bool] = (chances < share).tolist()
        self._right: list[tuple[Any, int]] = [(None, 0)] * payloads  # of each payload, the right answer that came last
        self._exceptions: dict[str, RequestFailed] = {}

    def join(self) -> tuple[int, Client]:
        """Connects one more client: its index within this worker, and itself; raises Failure."""
        client = self._make_client()
        try:
            client.connect(CONNECT_TIMEOUT_S)
        except Failure as failure:
            client.close()
            self.trouble = f"cannot reach the server at {self.spec.url}: {failure}"
            raise
        self.clients.append(client)
        return len(self.clients) - 1, client

    def begin(self, t0_ns: int, first_client: int) -> None:
        """Fixes the window (monotonic ns of this machine) and the number of this worker's first client."""
        measure = self.spec.measure
        self.t0_ns = t0_ns
        self.measure_ns = t0_ns + round(measure.warmup_s * 1e9)
        self.end_ns = self.measure_ns + round(measure.duration_s * 1e9)
        self.give_up_ns = self.end_ns + round(measure.drain_s * 1e9)
        self.first_client = first_client

    def finish(self, drain_s: float) -> None:
        """Sends nothing more; what is in flight has `drain_s`."""
        now_ns = time.monotonic_ns()
        self.end_ns = min(self.end_ns, now_ns)
        self.give_up_ns = min(self.give_up_ns, now_ns + round(drain_s * 1e9))
        self.go.set()

    def give_up(self) -> None:
        """The drain is over: ends what is in flight, without waiting: a client library may hang even in this."""
        self.given_up = True
        for client in self.clients:
            gevent.spawn(client.abort)

    def counts(self) -> dict[str, int]:
        """messages.COUNTS of this worker."""
        return {
            "sent": self.sent,
            "unsent": self.unsent,
            "ok": self.ok,
            "failed": self.failed,
            "wrong": self.wrong,
            "in_flight": self.in_flight,
            "connections": sum(client.connections for client in self.clients),
        }

    @property
    def held(self) -> int:
        """Requests so far that waited because the server's limit of streams was reached."""
        return sum(client.held for client in self.clients)

    def first_payload(self, client: int) -> int:
        """Where the client's round through the payloads starts: a seeded order, so that clients start apart."""
        return self._order[client % len(self._order)]

    def send(self, client: Client, number: int, payload: int) -> int | None:
        """Client `number` sends one request and waits for its end: its status (of `records`).

        None where the window is over. A request is due when it is sent. Reading, comparing and recording come after
        the time stamps.
        """
        now_ns = time.monotonic_ns()
        if now_ns >= self.end_ns:
            return None
        request = self.request(now_ns, self.sent, number, payload)
        name = self.leave(request)
        try:
            exchange = client.infer(payload, name)
        except Failure as failure:  # raised from outside into a library that does not return: see Worker
            exchange = Exchange(now_ns).failed(time.monotonic_ns(), failure.status, str(failure))
        return self.arrive(request._replace(planned_ns=exchange.sent_ns), client, exchange)

    def request(self, planned_ns: int, sequence: int, client: int, payload: int) -> Request:
        """A request of the phase in which it is due."""
        return Request(planned_ns, sequence, client, payload, MEASURE if planned_ns >= self.measure_ns else WARMUP)

    def leave(self, request: Request) -> str:
        """Counts a request that is about to be sent; returns its id."""
        self.sent += 1
        self.in_flight += 1
        return request_id(self.spec.run, self.worker, request.sequence, request.phase)

    def arrive(self, request: Request, client: Client, exchange: Exchange) -> int:
        """Judges, counts and records a request that has ended; returns its status."""
        self.in_flight -= 1
        self.latest_ns = max(self.latest_ns, exchange.sent_ns - request.planned_ns)
        status = exchange.status
        verified = correct = False
        size = 0
        if status == OK:
            began_ns = time.perf_counter_ns()
            status, verified, correct, size = self._judge(client, exchange.answer, request.sequence, request.payload)
            self.verify_ns += time.perf_counter_ns() - began_ns
        self._record(request, exchange, status, verified, correct)
        self._count(status, verified and not correct, (exchange.received_ns - request.planned_ns) / 1e6, size)
        return status

    def skip(self, request: Request) -> None:
        """Records a request that was due and is not sent."""
        self.unsent += 1
        now_ns = time.monotonic_ns()
        self._record(request, Exchange(now_ns).failed(now_ns, UNSENT, ""), UNSENT, False, False)

    def _record(self, request: Request, exchange: Exchange, status: int, verified: bool, correct: bool) -> None:
        planned_ns, sequence, client, payload, phase = request
        t0_ns, first_byte_ns = self.t0_ns, exchange.first_byte_ns
        self.spool.add(
            planned_ns - t0_ns,
            exchange.sent_ns - t0_ns,
            first_byte_ns if first_byte_ns == UNKNOWN_NS else first_byte_ns - t0_ns,
            exchange.received_ns - t0_ns,
            sequence,
            client,
            payload,
            status,
            phase,
            verified,
            correct,
        )

    def _judge(self, client: Client, answer: Any, sequence: int, payload: int) -> tuple[int, bool, bool, int]:
        """(status, verified, correct, bytes) of an answer that came.

        An answer with the same bytes as one that was read and found right before is not read again.
        """
        checked = self._checked[sequence % CHECKED_PERIOD]
        content, known = client.content(answer), self._right[payload]
        if content is not None and content == known[0]:
            return OK, checked, checked, known[1]
        try:
            tensors = client.tensors(answer)
        except Failure as failure:
            return failure.status, False, False, 0
        size = sum([len(tensor.raw) for tensor in tensors])
        if not checked:
            return OK, False, False, size
        load = self.spec.load
        right = agree(self._answers[payload], tensors, rtol=load.rtol, atol=load.atol)
        if right:
            self._right[payload] = content, size
        return OK, True, right, size

    def _count(self, status: int, wrong: bool, latency_ms: float, size: int) -> None:
        good = status == OK and not wrong
        if good:
            self.ok += 1
        else:
            self.failed += status != OK
            self.wrong += wrong
        if self._fire is not None:
            self._fire(
                request_type=self.spec.load.protocol,
                name=self.spec.model,
                response_time=latency_ms,
                response_length=size,
                exception=None if good else self._exception("wrong answer" if wrong else status_name(status)),
                context={},
            )

    def _exception(self, name: str) -> RequestFailed:
        return self._exceptions.setdefault(name, RequestFailed(name))
