"""The open loop: sends each request of a worker's part of the plan when it is due, whatever the earlier ones do.

How late requests leave, and a worker's CPU (of one core), by how the time to the next one is passed. Poisson arrivals
through tritonclient over gRPC; two cores, shared with the server and others (load 2 to 6); two rounds of 3 s each:

| | 100/s: p50, p99 ms | CPU % | 500/s: p50, p99 ms | CPU % | 2 workers, 500/s each: p50, p99 ms |
|---|---|---|---|---|---|
| gevent.sleep | 0.65-0.67, 5.5-57 | 10-11 | 0.66-0.84, 20-170 | 31-36 | 0.73-1.2, 7-390 |
| gevent.sleep, last 1 ms spun | 0.01-0.21, 2-15 | 12-14 | 0.22-0.50, 24-51 | 35-45 | 0.29-0.40, 5-9 |
| timerfd | 0.10-0.19, 2-14 | 10-12 | 0.12-0.17, 3-4 | 41-42 | 0.27-0.28, 4-7 |
| timerfd, last 0.1 ms spun (chosen) | 0.04-0.05, 9-32 | 10-12 | 0.12-0.13, 4-8 | 38-39 | 0.07-0.26, 2-15 |
| timerfd, last 0.3 ms spun | 0.01, 2-4 | 11 | 0.01-0.17, 2-13 | 41-45 | 0.20-0.55, 3-53 |

The p99 depends on which process has the core when a request is due. Longer spinning costs CPU without a sure gain.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from math import ceil
from typing import Any, Final

import gevent
from gevent.event import Event

from loadproof_clients.load.alarm import Alarm
from loadproof_clients.load.session import Request, Session
from loadproof_clients.records import LOST
from loadproof_clients.schedule import Block, part, planned
from loadproof_clients.transport import Client, Exchange

SPIN_NS: Final = 100_000
BACKLOG_MAX: Final = 1000  # answers that are stamped and not read yet
SLEEP_NS_MAX: Final = 100_000_000  # so that the end of the run is noticed
LOST_NS: Final = 2_000_000_000  # after the drain: what is given up by then and not reported is lost


class Dispatcher:
    """One worker's requests: its own greenlet sends them, `run` returns when the last one has ended.

    No request waits for another: one that is due while the worker's share of load.max_in_flight is under way is
    recorded as unsent, and so is what is left when the drain is over. A request whose end the client library never
    reports is recorded as lost LOST_NS after the drain: one silent future must not keep back the worker's records.
    What follows a gRPC client's first request is not held back for HAProxy's sake: at a rate the first ones are a gap
    apart, and a client that opens with a burst (a trace) gets a backend connection for each stream that comes before
    the first of them is established.
    """

    def __init__(self, session: Session, trace_ns: Any) -> None:
        spec, load = session.spec, session.spec.load
        self._session = session
        self._clients: list[Client] = session.clients
        self._limit = ceil(load.max_in_flight * len(self._clients) / load.clients)
        self._backlog_max = max(1, min(BACKLOG_MAX, self._limit // 2))  # what is not read yet counts as in flight
        self._payloads = [session.first_payload(session.first_client + n) for n in range(len(self._clients))]
        plan = planned(load, spec.measure, trace_ns, spec.repeat)
        self._plan = part(plan, session.first_client, len(self._clients))
        self._under_way: dict[int, tuple[Request, Client, int]] = {}  # by sequence, with the sent time
        self._arrived: deque[tuple[Request, Client, Exchange]] = deque()
        self._noted = Event()

    def run(self) -> None:
        """From T0 to the end of the last request."""
        session = self._session
        session.go.wait()
        judge = gevent.spawn(self._judge_forever)
        with closing(Alarm()) as alarm:
            for sequence, (due_ns, client) in enumerate(_requests(self._plan)):
                planned_ns = session.t0_ns + due_ns
                if not wait_until(planned_ns, session, alarm):
                    break
                self._send(planned_ns, sequence, client)
                if len(self._arrived) >= self._backlog_max:  # sends are so close that the judge never gets its turn
                    self._judge_one()
        while session.in_flight:
            gevent.sleep(0.01)
            if time.monotonic_ns() > session.give_up_ns + LOST_NS:
                self._lose_the_silent()
        judge.kill()
        session.landed.set()

    def _send(self, planned_ns: int, sequence: int, client: int) -> None:
        session = self._session
        index = client - session.first_client
        request = session.request(planned_ns, sequence, client, self._payloads[index])
        if session.in_flight >= self._limit or session.given_up:
            session.skip(request)
            return
        self._payloads[index] = (request.payload + 1) % session.payloads
        sender = self._clients[index]
        self._under_way[sequence] = request, sender, time.monotonic_ns()
        sender.start(request.payload, session.leave(request), partial(self._arrive, request, sender))

    def _arrive(self, request: Request, client: Client, exchange: Exchange) -> None:
        """Only takes note: the answers that came with this one, after a stall say, are stamped before any is read."""
        if self._under_way.pop(request.sequence, None) is None:
            return  # it is recorded as lost: its end came too late
        self._arrived.append((request, client, exchange))
        self._noted.set()

    def _lose_the_silent(self) -> None:
        for request, client, sent_ns in list(self._under_way.values()):
            lost = Exchange(sent_ns).failed(time.monotonic_ns(), LOST, "the client library never reported its end")
            self._arrive(request, client, lost)

    def _judge_forever(self) -> None:
        """Reads, compares and records answers while nothing else is to do."""
        while True:
            self._noted.wait()
            self._noted.clear()
            while self._arrived:
                gevent.idle()
                if self._arrived:
                    self._judge_one()

    def _judge_one(self) -> None:
        request, client, exchange = self._arrived.popleft()
        try:
            self._session.arrive(request, client, exchange)
        except Exception as error:
            self._session.trouble = f"request {request.sequence}: {error!r}"


def _requests(plan: Iterator[Block]) -> Iterator[tuple[int, int]]:
    for due_ns, client in plan:
        yield from zip(due_ns.tolist(), client.tolist(), strict=True)


def wait_until(planned_ns: int, session: Session, alarm: Alarm) -> bool:
    """Returns at `planned_ns` (monotonic): True, or False as soon as the run ends before it.

    Lets other greenlets run at least once, also where it is late already: answers have to be received in time. `idle`
    at the loop's highest priority does that with one poll of the sockets a turn, and no other watcher starves it;
    `gevent.sleep(0)` would look at them every 5 ms only.
    """
    priority = gevent.get_hub().loop.MAXPRI
    while planned_ns < session.end_ns:
        gevent.idle(priority)
        now_ns = time.monotonic_ns()
        if now_ns >= planned_ns:
            return True
        if planned_ns - now_ns > SPIN_NS:
            alarm.sleep_until(min(planned_ns - SPIN_NS, now_ns + SLEEP_NS_MAX))
    return False
