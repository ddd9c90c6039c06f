"""The open loop: sends each request of a worker's part of the plan when it is due, whatever the earlier ones do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from math import ceil
from typing import Any, Final

import gevent
from gevent.event import Event

from clients.load.session import Request, Session
from clients.load.transports import OpenTransport
from clients.schedule import Block, part, planned

SPIN_NS: Final = 1_000_000
SLEEP_S_MAX: Final = 0.1  # so that the end of the run is noticed


class Dispatcher:
    """One worker's requests: its own greenlet sends them, `run` returns when the last one has ended.

    No request waits for another: one that is due while the worker's share of load.max_in_flight is under way is
    recorded as unsent, and so is what is left when the drain is over.
    """

    def __init__(self, session: Session, trace_ns: Any) -> None:
        load = session.spec.load
        self._session = session
        self._clients: list[OpenTransport] = session.transports
        self._limit = ceil(load.max_in_flight * len(self._clients) / load.clients)
        self._payloads = [session.first_payload(session.first_client + n) for n in range(len(self._clients))]
        self._plan = part(planned(load, session.spec.measure, trace_ns), session.first_client, len(self._clients))
        self._ended = Event()

    def run(self) -> None:
        """From T0 to the end of the last request."""
        session = self._session
        session.go.wait()
        for sequence, (due_ns, client) in enumerate(_requests(self._plan)):
            planned_ns = session.t0_ns + due_ns
            if not wait_until(planned_ns, session):
                break
            self._send(planned_ns, sequence, client)
        while session.in_flight:
            self._ended.clear()
            self._ended.wait()
        session.landed.set()

    def _send(self, planned_ns: int, sequence: int, client: int) -> None:
        session = self._session
        index = client - session.first_client
        request = session.request(planned_ns, sequence, client, self._payloads[index])
        if session.in_flight >= self._limit or session.given_up:
            session.forgo(request)
            return
        self._payloads[index] = (request.payload + 1) % session.payloads
        transport = self._clients[index]
        transport.start(request.payload, session.leave(request), partial(self._arrive, request, transport))

    def _arrive(
        self, request: Request, transport: OpenTransport, sent_ns: int, received_ns: int, status: int, result: Any
    ) -> None:
        try:
            self._session.arrive(request, transport, sent_ns, received_ns, status, result)
        except Exception as error:  # gRPC would only log it
            self._session.trouble = f"request {request.sequence}: {error!r}"
        self._ended.set()


def _requests(plan: Iterator[Block]) -> Iterator[tuple[int, int]]:
    for due_ns, client in plan:
        yield from zip(due_ns.tolist(), client.tolist(), strict=True)


def wait_until(planned_ns: int, session: Session) -> bool:
    """Returns at `planned_ns` (monotonic): True, or False as soon as the run ends before it."""
    priority = gevent.get_hub().loop.MAXPRI
    while planned_ns < session.end_ns:
        gevent.idle(priority)
        left_ns = planned_ns - time.monotonic_ns()
        if left_ns <= 0:
            return True
        if left_ns > SPIN_NS:
            gevent.sleep(min((left_ns - SPIN_NS) / 1e9, SLEEP_S_MAX))
    return False
