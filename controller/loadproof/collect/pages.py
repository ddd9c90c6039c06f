"""Pages of a server that nobody vouches for: within a total time and a size, past the environment's proxies.

The time-outs of Python's HTTP client are for each read: a server that sends a byte a second holds it for ever. Here
each read has what is left of the whole.
"""

from __future__ import annotations

import contextvars
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final

PAGE_BYTES_MAX: Final = 16 << 20
READ_BYTES: Final = 1 << 20

# What fetch raises: nothing answers in time, no HTTP, no URL.
ERRORS: Final = (OSError, HTTPException, ValueError)

_deadline_s: contextvars.ContextVar[float] = contextvars.ContextVar("deadline_s")


class BoundMet(ValueError):
    """The server would have gone on: the page is not there, and a note of the run says why."""


class TooSlow(BoundMet, TimeoutError):
    """It was still sending when the time was over; a server that says nothing at all is a plain TimeoutError."""


def fetch(
    url: str, timeout_s: float, *, bytes_max: int = PAGE_BYTES_MAX, post: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer to a GET, or to a POST without a body with the headers `post`.

    Raises one of ERRORS: BoundMet where the server is slow or endless.
    """
    deadline_s = time.monotonic() + timeout_s
    request = urllib.request.Request(url, data=None if post is None else b"", headers=dict(post or {}))
    token = _deadline_s.set(deadline_s)
    try:
        try:
            answer = _open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status or 0, _read(answer, bytes_max)
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None
    finally:
        _deadline_s.reset(token)


def _read(answer: Any, bytes_max: int) -> bytes:
    """The body; of a chunked one http.client would read a chunk of any size at once."""
    pieces, size = [], 0
    while size <= bytes_max and (piece := answer.read(min(READ_BYTES, bytes_max + 1 - size))):
        pieces.append(piece)
        size += len(piece)
    if size > bytes_max:
        raise BoundMet(f"the page is over {bytes_max:,} bytes")
    return b"".join(pieces)


class _Timed(socket.socket):
    """A connected socket whose every wait ends with the deadline."""

    _has_received = False

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        try:
            self._have_time_left()
            size = super().recv_into(*arguments, **named)
        except TimeoutError:
            if self._has_received:
                raise TooSlow("the answer was not whole when its time was over") from None
            raise
        self._has_received = True
        return size

    def sendall(self, *arguments: Any) -> None:
        self._have_time_left()
        super().sendall(*arguments)

    def _have_time_left(self) -> None:
        left_s = _deadline_s.get() - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time is over")
        self.settimeout(left_s)


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.timeout = max(0.001, _deadline_s.get() - time.monotonic())
        super().connect()
        self.sock = _Timed(fileno=self.sock.detach())


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


# What is measured is reached directly: a site's proxy knows nothing of this machine's loopback. Only http: is opened,
# whatever an answer redirects to.
_director = urllib.request.OpenerDirector()
for _handler in (
    _Handler(),
    urllib.request.HTTPDefaultErrorHandler(),
    urllib.request.HTTPRedirectHandler(),
    urllib.request.HTTPErrorProcessor(),
    urllib.request.UnknownHandler(),
):
    _director.add_handler(_handler)
_open = _director.open
