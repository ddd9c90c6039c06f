"""gRPC over HTTP/2, unary methods only: one connection as an asyncio protocol, with the same limits as HTTP/1.1's.

It replaced grpcio's server on 2026-11-24: grpc.aio wakes the event loop from another thread four times a request,
reports a request only when it is complete, so that slow ones cannot be bounded, and copies a message twice more.
Streaming methods are not served. Requests may be compressed, within the same bounds; answers are not compressed. A
request whose deadline has passed is answered with that, and an inference that still waits in the queue is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final

from loadproof_server.connections import grpc_stream, http2
from loadproof_server.connections.grpc_stream import PREFIX, Handler, Stream
from loadproof_server.connections.http2 import Http2Error
from loadproof_server.connections.http2_frames import MAX_FRAME_BYTES, FrameReceiver
from loadproof_server.connections.http2_sender import Sender
from loadproof_server.connections.listener import ListenerState
from loadproof_server.errors import NotSupported, ServingError, TooLarge, TooSlow, Unavailable

log = logging.getLogger("loadproof-server")

MAX_STREAMS: Final = 10_000  # of a connection: HAProxy sends as many before it has read our SETTINGS
_UNREAD_MAX_BYTES: Final = 1 << 22  # above a piece of an answer: acknowledgements and refusals left unread
_LINGER_S: Final = 2.0  # the client may still send: closing at once would destroy what it has not read
_DECOMPRESSED_HERE_BYTES: Final = 1 << 12  # they may grow by 1000: more are decompressed in a thread
_DEADLINE_PASSED: Final = "deadline: the time that grpc-timeout gives has passed"
_CONTENT_TYPES: Final = (b"application/grpc", b"application/grpc+proto")


class GrpcConnection(FrameReceiver):
    """Starts a task for each complete request, and sends the answers."""

    def __init__(self, listener: ListenerState, handlers: Mapping[bytes, Handler]) -> None:
        super().__init__(listener)
        self._handlers = handlers
        self._going_away = False  # no new streams: the server stops
        self._write_closed = False  # nothing more is written
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._sender = Sender(self._end)
        self._unacknowledged_bytes = 0  # bytes of DATA since the last WINDOW_UPDATE
        self._unsent_bytes = 0

    # ---- asyncio's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self._sender.transport = transport
        if not self._listener.admit(self):
            message = f"too many connections: {self._limits.connections}"
            self._fail_connection(Http2Error(http2.ENHANCE_YOUR_CALM, message))
            asyncio.get_running_loop().call_later(_LINGER_S, self.transport.abort)
            return
        self._sender.send_settings(MAX_STREAMS, MAX_FRAME_BYTES, self._limits.head_bytes)

    def buffer_updated(self, nbytes: int) -> None:
        if self._write_closed or self.transport.is_closing():
            return
        try:
            self._receive(self._listener.read_buffer[:nbytes])
        except Http2Error as error:
            self._fail_connection(error)
        if self.transport.get_write_buffer_size() > _UNREAD_MAX_BYTES:
            self.transport.abort()

    def pause_writing(self) -> None:
        self._sender.pause()

    def resume_writing(self) -> None:
        if not self._write_closed:
            self._sender.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        for stream in list(self._streams.values()):
            self._abandon(stream)

    # ---- frames ----

    def _stream_of(self, number: int) -> Stream | None:
        """The stream, or None where it has been answered; raises Http2Error where it was never opened."""
        if number > self._last_stream or number % 2 == 0:
            raise Http2Error(http2.PROTOCOL_ERROR, "a stream that was never opened")
        return self._streams.get(number)

    def _on_headers(self, number: int, flags: int, headers: Mapping[bytes, bytes]) -> None:
        stream = self._streams.get(number)
        if stream is None:
            stream = self._open(number, headers)
        elif stream.ended or not flags & http2.END_STREAM:
            raise Http2Error(http2.PROTOCOL_ERROR, "headers in the middle of a stream")
        if stream and flags & http2.END_STREAM:
            self._start_answer(stream)

    def _open(self, number: int, headers: Mapping[bytes, bytes]) -> Stream | None:
        if number <= self._last_stream:
            return None  # trailers of a stream that is answered already
        if number % 2 == 0:
            raise Http2Error(http2.PROTOCOL_ERROR, "a client's streams have odd numbers")
        self._last_stream = number
        if self._going_away or len(self._streams) >= MAX_STREAMS:
            self.transport.write(http2.reset(number, http2.REFUSED_STREAM))
            return None
        if headers.get(b"content-type", b"").partition(b";")[0].rstrip() not in _CONTENT_TYPES:
            self._sender.refuse(number, b"415", "content-type: must be application/grpc")
            return None
        path = headers.get(b":path", b"")
        handler = self._handlers.get(path)
        encoding = headers.get(b"grpc-encoding", b"")
        stream = Stream(number, handler or grpc_stream.unknown_method, self._sender.first_window, encoding)
        self._streams[number] = stream
        try:
            if handler is None:
                raise NotSupported(f"method {path[:100].decode('latin-1')!r}: unknown")
            if (timeout_s := grpc_stream.timeout_s_of(headers)) is not None:
                stream.deadline = time.monotonic() + timeout_s
                stream.timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, stream)
        except ServingError as error:
            self._fail(stream, error)
            return None
        return stream

    def _on_data(self, number: int, flags: int, payload: memoryview) -> None:
        self._unacknowledged_bytes += len(payload)
        if self._unacknowledged_bytes > http2.MAX_WINDOW // 4:
            self.transport.write(http2.widen_connection(self._unacknowledged_bytes))
            self._unacknowledged_bytes = 0
        stream = self._streams.get(number) or self._stream_of(number)
        if stream is None:
            return
        if stream.ended:
            raise Http2Error(http2.STREAM_CLOSED, "data after the end")
        data = http2.unpadded(http2.PADDED, payload) if flags & http2.PADDED else payload
        if data and not self._add(stream, data):
            return
        if flags & http2.END_STREAM:
            self._start_answer(stream)

    def _add(self, stream: Stream, data: memoryview) -> bool:
        """False where the message is over a limit, which has then been answered."""
        body = stream.body
        try:
            self._reserve(stream, len(data), len(body) + len(data) - stream.alignment_bytes - PREFIX.size)
        except ServingError as error:
            self._fail(stream, error)
            return False
        if not body:
            stream.body = bytes(data)  # most often the whole message
        elif isinstance(body, bytes):
            stream.alignment_bytes = grpc_stream.alignment_of(body)
            stream.body = bytearray(stream.alignment_bytes) + body + data
        else:
            body += data
        return True

    def _reserve(self, stream: Stream, more: int, size: int) -> None:
        """Counts `more` bytes of a message that then has `size`; raises TooLarge or Unavailable."""
        if size > self._limits.body_bytes:
            raise TooLarge(f"message: larger than {self._limits.body_bytes} bytes")
        if self._listener.held_bytes + more > self._limits.held_bytes:
            raise Unavailable(f"requests in flight hold {self._limits.held_bytes} bytes; try again later")
        self._listener.held_bytes += more
        stream.held_bytes += more

    def _on_reset(self, number: int) -> None:
        if stream := self._stream_of(number):
            self._abandon(stream)

    def _on_window_update(self, number: int, more: int) -> None:
        if number == 0:
            self._sender.widen_window(more)
        elif stream := self._stream_of(number):
            self._sender.widen_stream_window(stream, more)

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & http2.ACK:
            http2.number(payload, 0)
            return
        self._settings_received = True
        self._sender.apply_settings(payload, self._streams.values())
        self.transport.write(http2.frame(http2.SETTINGS, http2.ACK, 0))

    # ---- requests and answers ----

    @property
    def idle(self) -> bool:
        return not self._streams

    def _start_answer(self, stream: Stream) -> None:
        stream.ended = True
        task = asyncio.get_running_loop().create_task(self._answer(stream))
        stream.task = task
        self._listener.tasks.add(task)
        task.add_done_callback(self._listener.tasks.discard)

    async def _answer(self, stream: Stream) -> None:
        try:
            if time.monotonic() >= stream.deadline:
                raise TooSlow(_DEADLINE_PASSED)
            compressed, message = grpc_stream.message_of(memoryview(stream.body)[stream.alignment_bytes :])
            if compressed:
                message = await self._decompressed(stream, message)
            parts = await stream.handler(message)
            if stream.id in self._streams:
                self._sender.answer(stream, parts)
        except ServingError as error:
            self._fail(stream, error)
        except Exception:
            log.exception("a gRPC request failed")
            self._fail(stream, ServingError("internal error; the server's log says more"))

    async def _decompressed(self, stream: Stream, message: memoryview) -> memoryview:
        pieces = grpc_stream.decompressed(stream.encoding, message)
        here = len(message) <= _DECOMPRESSED_HERE_BYTES
        whole = bytearray()
        while (piece := next(pieces, None) if here else await asyncio.to_thread(next, pieces, None)) is not None:
            self._reserve(stream, len(piece), len(whole) + len(piece))
            whole += piece
        return memoryview(whole)

    def _expire(self, stream: Stream) -> None:
        """Its deadline has passed."""
        if stream.pending:
            self._reset(stream)
            return
        self._fail(stream, TooSlow(_DEADLINE_PASSED))
        if stream.task:
            stream.task.cancel()

    def _reset(self, stream: Stream) -> None:
        """Ends an answer that has begun."""
        self.transport.write(http2.reset(stream.id, http2.CANCEL))
        self._abandon(stream)

    def _fail(self, stream: Stream, error: ServingError) -> None:
        """Answers a request that failed; the rest of its message is refused."""
        if stream.id not in self._streams:
            return
        self.transport.write(self._sender.headers(stream.id, http2.END_STREAM, grpc_stream.failure(error)))
        if not stream.ended:
            self.transport.write(http2.reset(stream.id, http2.NO_ERROR))
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._listener.held_bytes -= stream.held_bytes
        stream.body, stream.alignment_bytes = b"", 0
        if stream.timer:
            stream.timer.cancel()
        self._sender.drop(stream)
        self.since = time.monotonic()
        if self._going_away and not self._streams:
            self._close_writing()

    def _abandon(self, stream: Stream) -> None:
        """The client no longer waits for it."""
        self._end(stream)
        if stream.task:
            stream.task.cancel()

    # ---- ends ----

    def check(self, now: float) -> None:
        """Ends requests and answers that take too long; called periodically."""
        limits = self._limits
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent_bytes:
            self._unsent_bytes, self.since = unsent, now
        elif unsent and now - self.since > limits.write_s:
            self.transport.abort()
        if self._write_closed:
            if not unsent and now - self.since > _LINGER_S:
                self.transport.abort()
            return
        if (not self._preface_received or self._header_block) and now - self.since > limits.request_s:
            self.transport.abort()
        for stream in list(self._streams.values()):
            took_s = now - stream.since
            if not stream.ended and took_s > limits.request_s + len(stream.body) / limits.body_bytes_per_s:
                self._fail(stream, TooSlow(f"message: not complete after {took_s:.0f} s"))
            elif stream.pending and took_s > limits.write_s:
                self._reset(stream)

    def close_when_idle(self) -> None:
        """The server stops: streams that are open get their answers."""
        if self._write_closed:
            return
        self._going_away = True
        self.transport.write(http2.goaway(self._last_stream, http2.NO_ERROR))
        if not self._streams:
            self.transport.close()

    def _fail_connection(self, error: Http2Error) -> None:
        self.transport.write(http2.goaway(self._last_stream, error.code, str(error)))
        self._close_writing()
        for stream in list(self._streams.values()):
            self._abandon(stream)

    def _close_writing(self) -> None:
        """Ends the connection once the client has read what is written; nothing more is read or written."""
        if self._write_closed or self.transport.is_closing():
            return
        self._write_closed = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.since = time.monotonic()
        else:
            self.transport.close()
