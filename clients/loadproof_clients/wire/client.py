"""The wire transport's client, for models so light that tritonclient is the bottleneck.

What is common to all APIs and protocols is here: which connection a request takes, its time-out, and how its end is
reported; grpc and rest know a protocol, http1 and http2 how it travels, and an API's room what its messages hold.

CPU of a recorded request in us, and in times of h2load's in the same round (benchmarks/generator.py, closed loop of 64
clients, two interleaved rounds of each; before this it was libcurl's multi interface through pycurl):

| | h2load | libcurl | plain sockets | tritonclient |
|---|---|---|---|---|
| gRPC | 11-13 | 30-36 (2.8-2.9) | 19 (1.5-1.7) | 120-189 |
| REST | 9-10 | 27 (2.7-2.8) | 14-15 (1.5) | 83-100 |

libcurl makes every transfer anew (address, headers, states), calls Python for each header line and piece of a body and
wants a timer and a look at its sockets set and taken back. Here a connection keeps its watcher, a request is one
sendmsg of bytes that are ready but for the id, an answer is one recv, heads that came before are looked up, and a
client has one timer for all its requests.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice, takewhile
from typing import Any, ClassVar, NamedTuple

import gevent
import gevent.socket
from gevent.hub import Waiter

from loadproof_clients.records import CONNECTION, GRPC_CODES, OK, TIMEOUT
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import Tensors
from loadproof_clients.transport import Done, Failure
from loadproof_clients.wire.connection import Address, Answer, Connection, WireExchange, adopt, dial


class Message(NamedTuple):
    """A request as it goes over the wire, for all clients and times: what comes before its id, and its body."""

    head: bytes
    body: bytes


class WireClient:
    """One client (transport.Client) of the API and protocol that a subclass knows."""

    engine: ClassVar[type[Connection]]

    def __init__(self, spec: LoadSpec, encoded: Sequence[Message]) -> None:
        self._url, self._messages = spec.url, encoded
        self._timeout_ns = round(spec.load.timeout_s * 1e9)
        self._loop = gevent.get_hub().loop
        self._timer = self._loop.timer(0)
        self._is_timed = False
        self._address: Address | None = None
        self._open: set[Connection] = set()
        self._free: list[Connection] = []  # those that take a request; the one that was used last is used first
        self._busy: dict[WireExchange, None] = {}  # in the order of sending
        self._aborted = False
        self.held = 0
        self.answer_bytes_max = spec.load.answer_bytes_max

    @classmethod
    def encode(cls, spec: LoadSpec, payload: Tensors) -> Message:
        """The payload as it goes over the wire."""
        raise NotImplementedError

    def question(self) -> Message:
        """The request that asks whether the server is ready, without an id."""
        raise NotImplementedError

    def is_ready(self, answer: Answer) -> bool:
        """What a good answer to it says."""
        raise NotImplementedError

    def judge(self, answer: Answer) -> tuple[int, str]:
        """The status (loadproof_clients.records) of an answer that came whole, and a message where it is not OK."""
        raise NotImplementedError

    def content(self, answer: Answer) -> Any:
        return answer.body

    def tensors(self, answer: Answer) -> Tensors:
        """The outputs of an Answer; raises Failure(UNREADABLE)."""
        raise NotImplementedError

    # transport.Client

    def connect(self, timeout_s: float) -> None:
        waiter = Waiter()
        with gevent.Timeout(timeout_s, Failure(TIMEOUT, f"no answer within {timeout_s:g} s")):
            self._send(WireExchange(waiter.switch), *self.question())
            exchange = waiter.get()
        if exchange.status != OK:
            raise Failure(exchange.status, exchange.message)
        if not self.is_ready(exchange.answer):
            raise Failure(GRPC_CODES["UNAVAILABLE"], "the server says that it is not ready")

    def infer(self, payload: int, request_id: str) -> WireExchange:
        waiter = Waiter()
        # in a turn of the loop of its own: answers that came together are all stamped before the first one is read
        exchange = WireExchange(partial(self._loop.run_callback, waiter.switch))
        if self._aborted:
            exchange.failed(time.monotonic_ns(), TIMEOUT, "given up before it was sent")
            return exchange
        self._begin(exchange, payload, request_id)
        waiter.get()
        return exchange

    def start(self, payload: int, request_id: str, done: Done) -> None:
        self._begin(WireExchange(done), payload, request_id)

    @property
    def connections(self) -> int:
        return len(self._open)

    def abort(self) -> None:
        self._aborted = True
        self._loop.run_callback(self._give_up, list(self._busy), "given up")

    def close(self) -> None:
        self._timer.stop()
        self._timer.close()
        for connection in list(self._open):
            connection.close()

    # the way of a request

    def _begin(self, exchange: WireExchange, payload: int, request_id: str) -> None:
        head, body = self._messages[payload]
        self._send(exchange, self.engine.named(head, request_id.encode()), body)

    def _send(self, exchange: WireExchange, head: bytes, body: bytes) -> None:
        exchange.sent_ns = time.monotonic_ns()
        try:
            if self._address is None:
                self._address = self._meet()
                exchange.sent_ns = time.monotonic_ns()
        except OSError as error:
            self._fail(exchange, error)
            return
        self._busy[exchange] = None
        if not self._is_timed:
            self._watch(self._timeout_ns)
        self.place(exchange, head, body)

    def _fail(self, exchange: WireExchange, error: OSError) -> None:
        exchange.status, exchange.message = CONNECTION, str(error)
        self.ended(exchange, time.monotonic_ns())

    def place(self, exchange: WireExchange, head: bytes, body: bytes) -> None:
        """Onto a connection that takes it, a new one where there is none."""
        assert self._address
        try:
            connection = exchange.connection = self._free[-1] if self._free else self._use(dial(self._address))
        except OSError as error:
            self._fail(exchange, error)
            return
        if not connection.takes_many:
            self._free.pop()
        connection.send(exchange, head, body)

    def _meet(self) -> Address:
        """The first connection, to the first of the host's addresses that takes one: all later ones go there, too."""
        host, _, port = self._url.rpartition(":")
        with gevent.socket.create_connection((host.strip("[]"), int(port)), self._timeout_ns / 1e9) as met:
            address = met.family, met.getpeername()
            self._use(adopt(met.detach()))
            return address

    def _use(self, sock: socket.socket) -> Connection:
        connection = self.engine(self, sock)
        self._open.add(connection)
        self._free.append(connection)
        return connection

    def _watch(self, ns: int) -> None:
        """Wakes in so many ns. One timer for all: requests are due in the order in which they were sent."""
        self._is_timed = True
        self._timer.close()
        self._timer = self._loop.timer(ns / 1e9)
        self._timer.start(self._ring)

    def _ring(self) -> None:
        self._is_timed = False
        sent_ns = time.monotonic_ns() - self._timeout_ns
        overdue = list(takewhile(lambda exchange: exchange.sent_ns <= sent_ns, self._busy))
        later = next(islice(self._busy, len(overdue), None), None)
        if later:
            self._watch(later.sent_ns - sent_ns)
        self._give_up(overdue, f"no whole answer within {self._timeout_ns / 1e9:g} s")

    def _give_up(self, exchanges: list[WireExchange], why: str) -> None:
        """The last first: where one waits for the stream of another, it is no longer there to take it."""
        now_ns = time.monotonic_ns()
        for exchange in reversed(exchanges):
            if exchange in self._busy:
                if exchange.connection:
                    exchange.connection.drop(exchange)
                exchange.status, exchange.message = TIMEOUT, why
                self.ended(exchange, now_ns)

    # connection.Owner

    def ended(self, exchange: WireExchange, received_ns: int) -> None:
        exchange.received_ns = received_ns
        self._busy.pop(exchange, None)
        if exchange.status == OK:
            exchange.status, exchange.message = self.judge(exchange.answer)
        exchange.done(exchange)

    def free(self, connection: Connection) -> None:
        self._free.append(connection)

    def leaving(self, connection: Connection) -> None:
        if connection in self._free:
            self._free.remove(connection)

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self.leaving(connection)
