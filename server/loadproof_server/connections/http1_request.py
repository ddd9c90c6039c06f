"""One HTTP/1.1 request, whose body arrives in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadproof_server.errors import ServingError

Body = bytes | bytearray | memoryview
JSON_TYPE: Final = (b"content-type", b"application/json")
Reply = tuple[int, Sequence[tuple[bytes, bytes]], Sequence[Body]]  # status, headers, and the body in pieces

_ALIGNMENT: Final = 64  # of the first binary tensor in a body that came in pieces: its array is then not copied


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


@dataclass(eq=False, slots=True)
class Request:
    """A request whose head is there; the body may still be coming."""

    method: str
    path: str  # decoded
    headers: Mapping[bytes, bytes]  # names in lower case
    keep_alive: bool = True
    whole: bool = False
    on_body_wanted: Callable[[], None] | None = None  # called when the application waits for the body: 100 Continue
    _parts: bytes | bytearray = b""
    _pad: int = 0
    _error: ServingError | ClientGone | None = None
    _waiter: asyncio.Future[None] | None = None

    async def body(self) -> memoryview:
        """The whole body; raises the error that it was refused with, or ClientGone."""
        if not self.whole and self._error is None:
            if self.on_body_wanted:
                self.on_body_wanted()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error:
            raise self._error
        return memoryview(self._parts)[self._pad :]

    @property
    def size(self) -> int:
        """Bytes of the body that are held."""
        return len(self._parts) - self._pad

    def add(self, data: bytes) -> None:
        """One more piece of the body."""
        if isinstance(self._parts, bytearray):
            self._parts += data  # grown by the allocator, in large blocks without a copy
        elif not self._parts:
            self._parts = data
        else:
            head = self.headers.get(b"inference-header-content-length", b"")
            self._pad = -int(head) % _ALIGNMENT if head.isdigit() and len(head) < 12 else 0
            self._parts = bytearray(self._pad) + self._parts + data

    def end(self, error: ServingError | ClientGone | None = None) -> None:
        """The body is complete, or refused by `error`."""
        self.whole = error is None
        self._error = error
        if error:
            self._parts, self._pad = b"", 0
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


App = Callable[[Request], Awaitable[Reply]]
