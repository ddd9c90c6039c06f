"""One HTTP/1.1 connection: httptools' parser in an asyncio protocol, bounded in size, time and number.

Requests of a connection are answered one at a time; pipelined ones wait, and nothing more is read meanwhile. An offer
to upgrade the connection (to h2c, as `curl --http2` and Java's client make it) is ignored, as RFC 9110 lets a server.
The fields of `Limits` bound:
- a head (request line, headers, trailers, what chunked encoding adds) by size: 431; a body by size: 413;
- the time of a request, as Apache's mod_reqtimeout does: `request_s`, and one second more for each `body_bytes_per_s`
  bytes of the body: 408. A client that does not read its answer is cut;
- bodies that are held at once, over all connections, by size: 503;
- connections by number: 503; but first the longest idle one is closed. No idle connection is closed for any other
  reason, because that would race with its next request.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
import time
import urllib.parse
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import httptools

from loadproof_server.connections.http1_request import JSON_TYPE, App, Body, ClientGone, Reply, Request
from loadproof_server.connections.listener import ListenerState
from loadproof_server.errors import HeadTooLarge, InvalidRequest, ServingError, TooLarge, TooSlow, Unavailable

log = logging.getLogger("loadproof-server")

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("latin-1") for status in http.HTTPStatus
}
_LINGER_S: Final = 2.0  # a refused client may still send: closing at once would destroy the answer on its way
_JOINED_BYTES: Final = 1 << 16  # a smaller answer is sent in one piece
_QUEUED_MAX: Final = 100  # requests sent ahead on one connection


class Http1Connection(asyncio.BufferedProtocol):
    """One client's connection; the parser's callbacks are the methods on_*."""

    transport: Any

    def __init__(self, listener: ListenerState, app: App) -> None:
        self._listener, self._app = listener, app
        self._limits = listener.limits
        self._parser = httptools.HttpRequestParser(self)
        self._queued: deque[Request] = deque()
        self._current: Request | None = None  # being answered
        self._incoming: Request | None = None  # its body is being received
        self._reading = False  # within a message
        self._upgrade_offered = False  # by the message, which is parsed again without that
        self._input_closed = False  # no more is parsed; complete requests are answered
        self._output_closed = False  # the last answer is sent
        self._messages = 0
        self._overhead_bytes = 0  # bytes of the message, beyond its first piece, that are not of its body
        self._unsent_bytes = 0
        self._reading_paused = False
        self._writing_paused = False  # the client does not read: no answer is begun
        self.since = time.monotonic()  # when the message began, or else of the last change

    # ---- asyncio's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if not self._listener.admit(self):
            self._refuse(Unavailable(f"too many connections: this server takes {self._limits.connections}"))
            asyncio.get_running_loop().call_later(_LINGER_S, self.transport.abort)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._output_closed or self._input_closed:
            return
        data = self._listener.read_buffer[:nbytes]
        message = self._messages if self._reading else None
        had = self._incoming.size if self._incoming else 0
        try:
            self._parse(data)
        except httptools.HttpParserUpgrade:  # CONNECT: what follows is no HTTP
            self._close_after_last()
        except httptools.HttpParserError:
            self._refuse(InvalidRequest("request: cannot be read as HTTP of version 1.1"))
        if message == self._messages and self._reading:
            size = self._incoming.size if self._incoming else 0
            self._overhead_bytes += len(data) - (size - had)
            if self._overhead_bytes > self._limits.head_bytes + 8 * size:
                self._refuse(HeadTooLarge(f"headers: larger than {self._limits.head_bytes} bytes"))
        if not self._reading_paused and len(self._queued) > 0:
            self._reading_paused = True
            self.transport.pause_reading()

    def _parse(self, data: memoryview) -> None:
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as end:
                if not self._upgrade_offered:
                    raise
                data = data[end.args[0] :]
                self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Has the head parsed again without the offer: httptools takes what follows the offer for another protocol."""
        since, self._upgrade_offered = self.since, False
        method, version = self._parser.get_method(), self._parser.get_http_version().encode("ascii")
        lines = [b"%s %s HTTP/%s" % (method, self._url, version)]
        for name, value in self._header_lines:
            if name == b"connection":
                options = [option.strip() for option in value.lower().split(b",")]
                value = b", ".join(option for option in options if option != b"upgrade")
            if name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"\r\n".join((*lines, b"", b"")))
        if self._reading:
            self.since = since

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if not self._output_closed:
            self._begin_next()

    def eof_received(self) -> bool:
        if not self._reading and (self._current or self._queued):
            self._close_after_last()
            return self.transport.get_extra_info("sslcontext") is None  # the answer can still be sent
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        self._output_closed = True
        if self._incoming:
            self._end_body(ClientGone())
        self._drop_queued()

    # ---- the parser's side ----

    def on_message_begin(self) -> None:
        self._reading = True
        self._messages += 1
        self._overhead_bytes = 0
        self.since = time.monotonic()
        self._url = b""
        self._header_lines: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_lines.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT":
            self._upgrade_offered = True
            return
        path = httptools.parse_url(self._url).path.decode("ascii")
        request = Request(
            self._parser.get_method().decode("ascii"),
            urllib.parse.unquote(path) if "%" in path else path,
            dict(self._header_lines),
            keep_alive=self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1",
        )
        self._header_lines = []  # trailers are not the request's headers
        self._incoming = request
        if int(request.headers.get(b"content-length", b"0")) > self._limits.body_bytes:
            self._end_body(TooLarge(f"body: larger than {self._limits.body_bytes} bytes"))
        if request.headers.get(b"expect", b"").lower() == b"100-continue":
            request.on_body_wanted = self._continue
        if self._current is None and not self._writing_paused:
            self._begin(request)
        elif len(self._queued) < _QUEUED_MAX:
            self._queued.append(request)
        else:
            raise ValueError("too many requests sent ahead")

    def on_body(self, data: bytes) -> None:
        request = self._incoming
        if request is None:  # refused: the rest of the body is skipped
            return
        if request.size + len(data) > self._limits.body_bytes:
            self._end_body(TooLarge(f"body: larger than {self._limits.body_bytes} bytes"))
        elif self._listener.held_bytes + len(data) > self._limits.held_bytes:
            self._end_body(Unavailable(f"requests in flight hold {self._limits.held_bytes} bytes; try again later"))
        else:
            request.add(data)
            self._listener.held_bytes += len(data)

    def on_message_complete(self) -> None:
        if self._upgrade_offered:
            return
        self._reading = False
        self.since = time.monotonic()
        if self._incoming:
            self._incoming.end()
            self._incoming = None

    # ---- requests and answers ----

    @property
    def idle(self) -> bool:
        """Whether it waits for the client's next request."""
        return not (self._reading or self._current or self._queued or self._output_closed)

    def _begin(self, request: Request) -> None:
        self._current = request
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._listener.tasks.add(task)
        task.add_done_callback(self._listener.tasks.discard)

    async def _answer(self, request: Request) -> None:
        """Runs the application for the request, sends its reply, and begins the next request."""
        try:
            status, headers, body = await self._app(request)
        except ClientGone:
            return
        except Exception:
            log.exception("%s %s failed", request.method, request.path[:100])
            request.keep_alive = False
            status, headers, body = _error(500, "internal error; the server's log says more")
        finally:
            self._listener.held_bytes -= request.size
        if self.transport.is_closing() or self._output_closed:
            return
        unread = not request.whole
        close = unread or not request.keep_alive or self._listener.stopping
        self._send(status, headers, body, close=close, only_head=request.method == "HEAD")
        self.since = time.monotonic()
        self._current = None
        if close:
            self._close(linger=unread)
            return
        self._begin_next()

    def _begin_next(self) -> None:
        """Begins the next request, unless the client must read first."""
        if self._queued and not self._current and not self._writing_paused:
            self._begin(self._queued.popleft())
        if self._reading_paused and not self._queued:  # the rest of the request that begins may not have arrived
            self._reading_paused = False
            self.transport.resume_reading()

    def _send(
        self,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        body: Sequence[Body],
        *,
        close: bool,
        only_head: bool = False,
    ) -> None:
        size = sum(len(part) for part in body)
        lines = [_STATUS_LINES[status], *(b"%s: %s\r\n" % header for header in headers)]
        lines.append(b"content-length: %d\r\n%s\r\n" % (size, b"connection: close\r\n" if close else b""))
        if only_head:
            self.transport.write(b"".join(lines))
        elif size <= _JOINED_BYTES:
            self.transport.write(b"".join((*lines, *body)))
        else:
            self.transport.writelines([b"".join(lines), *body])

    def _continue(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # ---- refusals ----

    def check(self, now: float) -> None:
        """Ends requests and answers that take too long; called periodically."""
        limits = self._limits
        unsent = self.transport.get_write_buffer_size()
        if self._output_closed:
            if now - self.since > _LINGER_S:
                self.transport.abort()
        elif unsent:
            if unsent != self._unsent_bytes:
                self.since = now
            elif now - self.since > limits.write_s:
                self.transport.abort()
        elif self._reading and not self._reading_paused:
            size = self._incoming.size if self._incoming else 0
            if now - self.since > limits.request_s + size / limits.body_bytes_per_s:
                what = "body" if self._incoming else "headers"
                self._refuse(TooSlow(f"{what}: not complete after {now - self.since:.0f} s"))
        self._unsent_bytes = unsent

    def close_when_idle(self) -> None:
        """The server stops: an idle connection ends now, another one after its answer."""
        if self.idle:
            self.transport.close()

    def _refuse(self, error: ServingError) -> None:
        """Parses no more of this connection, and closes it once its complete requests are answered."""
        self._input_closed = True
        if self._incoming:
            self._end_body(error)  # its application answers, and counts it
        elif self._current or self._queued:
            self._close_after_last()
        elif not self._output_closed:
            self._send(*_error(error.http_status, str(error)), close=True)
            self._close(linger=True)

    def _close_after_last(self) -> None:
        if last := self._queued[-1] if self._queued else self._current:
            last.keep_alive = False

    def _end_body(self, error: ServingError | ClientGone) -> None:
        assert self._incoming
        request, self._incoming = self._incoming, None
        self._listener.held_bytes -= request.size
        request.keep_alive = False
        request.end(error)

    def _close(self, *, linger: bool) -> None:
        self._output_closed = True
        self._incoming = None
        self.since = time.monotonic()
        self._drop_queued()
        if linger and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _drop_queued(self) -> None:
        for request in self._queued:
            self._listener.held_bytes -= request.size
        self._queued.clear()


def _error(status: int, message: str) -> Reply:
    return status, [JSON_TYPE], [json.dumps({"error": message}).encode()]
