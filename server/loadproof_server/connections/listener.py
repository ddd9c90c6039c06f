"""A listener and what its connections share in every protocol: limits, admission, and an end for slow clients.

No idle connection is closed but to make way for a new one, because that would race with its next request.

All connections read into one buffer, `ListenerState.read_buffer`: each takes what it needs from it at once. Without it
the event loop makes a bytes object of each read, and a request of 600 KB (a model that does nothing with it)
took 1,570 us of the server's CPU over gRPC and 1,270 over REST, with it 1,280 and 1,070 (medians of four rounds in
turns, two cores, 2026-11-27; part of gRPC's gain is that its frames are no longer copied one by one).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

BACKLOG: Final = 2048  # connections that wait to be accepted
DRAIN_S: Final = 30.0  # requests in flight at the end of the server get this long
_SWEEP_S: Final = 0.5
_READ_BUFFER_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the server; bytes are those of one request unless said otherwise."""

    head_bytes: int = 1 << 16
    body_bytes: int = 1 << 30  # as OVMS
    held_bytes: int = 1 << 31  # of all bodies together; OVMS's grpc_memory_quota
    request_s: float = 20.0  # for a head, and for a body that comes no faster than ...
    body_bytes_per_s: int = 4096
    write_s: float = 60.0  # without the client reading a byte of the answer
    connections: int = 4096
    idle_s: float = 20.0  # before a connection may be closed for a new one


class ManagedConnection(Protocol):
    """A connection, as its listener manages it."""

    transport: Any
    since: float  # monotonic seconds of its last change

    @property
    def idle(self) -> bool:
        """Whether it waits for the client's next request."""

    def check(self, now: float) -> None:
        """Ends requests and answers that take too long; called periodically."""

    def close_when_idle(self) -> None:
        """The server stops: an idle connection ends now, another one after its answers."""


@dataclass(eq=False, slots=True)
class ListenerState:
    """The open connections of a listener, and what they hold together."""

    limits: Limits = field(default_factory=Limits)
    connections: set[ManagedConnection] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    held_bytes: int = 0
    read_buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_READ_BUFFER_BYTES)))
    stopping: bool = False

    def admit(self, connection: ManagedConnection) -> bool:
        """Whether one more connection is admitted; the one that has been idle the longest may be closed for it."""
        if len(self.connections) >= self.limits.connections:
            longest = min((each for each in self.connections if each.idle), key=lambda each: each.since, default=None)
            if longest is None or time.monotonic() - longest.since < self.limits.idle_s:
                return False
            self.connections.discard(longest)
            longest.transport.abort()
        self.connections.add(connection)
        return True


class Listener:
    """`await start(listener)` serves connections, which `make` creates; `await stop(drain_s)` ends them."""

    def __init__(self, make: Callable[[ListenerState], asyncio.BufferedProtocol], limits: Limits | None = None) -> None:
        self._make = make
        self._state = ListenerState(limits or Limits())
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accepts connections of this socket too from now on, under TLS where there is a context for it."""
        more: dict[str, Any] = {"ssl_handshake_timeout": self._state.limits.request_s} if tls else {}
        server = await asyncio.get_running_loop().create_server(
            lambda: self._make(self._state), sock=listener, backlog=BACKLOG, ssl=tls, **more
        )
        self._servers.append(server)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self, drain_s: float) -> None:
        """Accepts no more, gives the requests in flight `drain_s` to end, and closes all connections."""
        deadline = time.monotonic() + drain_s
        self._state.stopping = True
        for server in self._servers:
            server.close()
        for connection in list(self._state.connections):
            connection.close_when_idle()
        while self._state.connections and time.monotonic() < deadline:  # until the last answer is taken
            await asyncio.sleep(0.01)
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        if self._sweeper:
            self._sweeper.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()

    async def _sweep(self) -> None:
        """Looks for slow clients: one walk over all connections rather than a timer for each request."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for connection in list(self._state.connections):
                connection.check(now)
