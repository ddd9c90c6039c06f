"""One TCP connection that gevent's loop watches: it sends at once what the socket takes, and passes on what arrives."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import gevent
from gevent.monkey import get_original

from loadproof_clients.records import CONNECTION, OK, TOO_LARGE, UNKNOWN_NS, UNREADABLE
from loadproof_clients.transport import Exchange

READ, WRITE = 1, 2
RECEIVED_BYTES: Final = 1 << 16  # at most, by one call; four times as much would cost 12 us more a call, in malloc
HEAD_BYTES_MAX: Final = 1 << 16
PIECE_BYTES: Final = 64  # what a piece of an answer costs here beside its bytes: many tiny ones are large, too
Socket: Final = get_original("socket", "socket")  # gevent's own wraps each call in Python
NO_HEADERS: Final[Mapping[bytes, bytes]] = {}
Address = tuple[int, Any]  # family, and what connect() takes


class Broken(Exception):
    """What came is not the protocol that it should be: the connection cannot go on."""

    status = UNREADABLE


class TooLarge(Broken):
    """An answer is over its bound: it is not read on."""

    status = TOO_LARGE

    def __init__(self, bytes_max: int) -> None:
        super().__init__(too_large(bytes_max))


def too_large(bytes_max: int) -> str:
    """What is said of such an answer, over every transport."""
    return f"the answer is over load.max_answer_mb = {bytes_max / 1e6:g}"


def digits(value: bytes, what: str) -> int:
    """A header's number; raises Broken. int() raises ValueError for thousands of digits."""
    if not value.isdigit() or len(value) > 18:
        raise Broken(f"not a {what}: {value[:80]!r}")
    return int(value)


class Answer(NamedTuple):
    """What came whole: HTTP's status, the last headers by name in lower case, and the body; nothing of it was read."""

    http_status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class WireExchange(Exchange):
    """An Exchange and where it is on the wire; `done` is called with it once it ended."""

    __slots__ = ("connection", "done", "head_size", "headers", "http_status", "size", "stream", "unsent", "window")
    answer: Answer  # where the status is OK
    unsent: memoryview  # of a large body over HTTP/2, and how much of it the peer takes
    window: int

    def __init__(self, done: Callable[[WireExchange], None]) -> None:
        self.sent_ns = self.received_ns = 0  # not by super().__init__: 0.15 us of a request's 17
        self.first_byte_ns, self.status, self.message = UNKNOWN_NS, OK, ""
        self.pieces, self.piece_ns = [], []
        self.done = done
        self.connection: Connection | None = None
        self.stream = self.http_status = self.size = self.head_size = 0
        self.headers: Mapping[bytes, bytes] = NO_HEADERS

    def body(self) -> bytes:
        """All pieces together."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


class Owner(Protocol):
    """What a connection reports to."""

    held: int  # requests until now that waited for one of the server's streams
    answer_bytes_max: int

    def ended(self, exchange: WireExchange, received_ns: int) -> None:
        """It has an answer, or another status than OK and a message."""

    def place(self, exchange: WireExchange, head: bytes, body: bytes) -> None:
        """It was not sent, and this connection takes it no more: another one is to."""

    def free(self, connection: Connection) -> None:
        """It takes another request again."""

    def leaving(self, connection: Connection) -> None:
        """It takes no further request."""

    def closed(self, connection: Connection) -> None: ...


def dial(address: Address) -> socket.socket:
    """A socket that connects; raises OSError where it cannot even begin.

    The caller need not wait: the socket becomes writable when it is connected, and readable when that failed; the
    read then returns the error.
    """
    family, target = address
    sock = adopt(Socket(family, socket.SOCK_STREAM).detach())
    error = sock.connect_ex(target)
    if error not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(error, os.strerror(error))
    return sock


def adopt(fd: int) -> socket.socket:
    """A stream socket as a Connection takes it."""
    sock: socket.socket = Socket(fileno=fd)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Connection:
    """What HTTP/1.1 and HTTP/2 have in common."""

    def __init__(self, owner: Owner, sock: socket.socket) -> None:
        self._owner, self._socket = owner, sock
        self._unsent: deque[memoryview] = deque()
        self._loop = gevent.get_hub().loop
        self._readable = self._loop.io(self._socket.fileno(), READ)
        self._writable = self._loop.io(self._socket.fileno(), WRITE)
        self._readable.start(self._receive)
        self.is_open = True

    # what a protocol knows

    takes_many = False  # requests at a time

    @staticmethod
    def named(head: bytes, request_id: bytes) -> bytes:
        """A request's head that ends with the name of the id's header, and the id."""
        raise NotImplementedError

    def send(self, exchange: WireExchange, head: bytes, body: bytes) -> None:
        """Sends a request; its end is reported to the owner."""
        raise NotImplementedError

    def drop(self, exchange: WireExchange) -> None:
        """Gives a request up: nothing more is reported of it."""
        raise NotImplementedError

    def take(self, data: bytes, now_ns: int) -> None:
        """Reads what came; raises Broken."""
        raise NotImplementedError

    def _end(self, now_ns: int) -> None:
        """The peer sends no more."""
        self._fail(now_ns, CONNECTION, "closed before the answer was whole")

    def _drained(self) -> None:
        """All that was to be sent has left."""

    def _in_flight(self) -> list[WireExchange]:
        """Those that end with the connection."""
        raise NotImplementedError

    # the socket

    def close(self) -> None:
        """Closes it without a word."""
        if self.is_open:
            self.is_open = False
            for watcher in (self._readable, self._writable):
                watcher.stop()
                watcher.close()
            self._socket.close()
            self._unsent.clear()
            self._owner.closed(self)

    def _fail(self, now_ns: int, status: int, message: str) -> None:
        lost = self._in_flight()
        self.close()
        for exchange in lost:
            exchange.status, exchange.message = status, message
            self._owner.ended(exchange, now_ns)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(RECEIVED_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(time.monotonic_ns(), CONNECTION, str(error))
            return
        now_ns = time.monotonic_ns()
        if not data:
            self._end(now_ns)
            return
        try:
            self.take(data, now_ns)
        except Broken as broken:
            self._fail(now_ns, broken.status, str(broken))

    def _write(self, *pieces: Any) -> None:
        """In order; what the socket does not take now leaves when it does."""
        if self._unsent:
            self._unsent.extend(map(memoryview, pieces))
            return
        try:
            taken = self._socket.sendmsg(pieces)
        except BlockingIOError:
            taken = 0
        except OSError:
            return  # the read reports the same, from the loop
        for piece in pieces:
            if taken < len(piece):
                self._unsent.append(memoryview(piece)[taken:])
                taken = 0
            else:
                taken -= len(piece)
        if self._unsent:
            self._writable.start(self._write_on)

    def _write_on(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                taken = self._socket.send(unsent[0])
                if taken < len(unsent[0]):
                    unsent[0] = unsent[0][taken:]
                else:
                    unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            unsent.clear()
        self._writable.stop()
        self._drained()
