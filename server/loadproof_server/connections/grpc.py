"""gRPC over HTTP/2, unary methods only: one client's connection as an asyncio protocol, bounded as REST's is.

Our own rather than grpcio's, which it was until 2026-11-24: grpc.aio wakes the event loop from another thread four
times a request, tells of a request only when it is whole, so that slow ones cannot be bounded, and copies a message
twice more. Not served are streaming methods. Messages may come compressed, within the bounds of those that are not;
answers are not compressed. When a request's deadline has passed, it is answered so, and an inference that still waits
for its turn is not made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from loadproof_server.connections import grpc_stream, http2
from loadproof_server.connections.grpc_stream import PREFIX, Handler, Stream
from loadproof_server.connections.http2 import Http2Error
from loadproof_server.connections.http2_sender import Sender
from loadproof_server.connections.listener import ListenerState
from loadproof_server.errors import NotSupported, ServingError, TooLarge, TooSlow, Unavailable

log = logging.getLogger("loadproof-server")

MAX_STREAMS: Final = 10_000  # of a connection, as HAProxy passes on before it has read ours
MAX_FRAME_BYTES: Final = 1 << 16
_UNREAD_BYTES: Final = 1 << 22  # more than a piece of an answer: acknowledgements and refusals that nobody takes
_LINGER_S: Final = 2.0  # for what the client still sends: closing at once would destroy what it has not read
_DECOMPRESSED_HERE_BYTES: Final = 1 << 12  # they may become 1000 times as many: more are a thread's
_TOO_LATE: Final = "deadline: the time that grpc-timeout gives has passed"
_CONTENT_TYPES: Final = (b"application/grpc", b"application/grpc+proto")


class GrpcConnection(asyncio.BufferedProtocol):
    """Frames in, answers out."""

    transport: Any

    def __init__(self, listener: ListenerState, handlers: Mapping[bytes, Handler]) -> None:
        self._listener, self._limits, self._handlers = listener, listener.limits, handlers
        self._buffer = bytearray()
        self._greeted = False
        self._introduced = False  # its SETTINGS are there
        self._closing = False  # no new streams: the server stops
        self._silent = False  # all is said
        self._headers = http2.HeaderReader(listener.limits.head_bytes)
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and beginning of a header block
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._sender = Sender(self._end)
        self._taken = 0  # bytes of DATA since the last WINDOW_UPDATE
        self._unsent = 0
        self.since = time.monotonic()

    # ---- asyncio's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self._sender.transport = transport
        if not self._listener.admit(self):
            self._break(Http2Error(http2.ENHANCE_YOUR_CALM, f"too many connections: {self._limits.connections}"))
            asyncio.get_running_loop().call_later(_LINGER_S, self.transport.abort)
            return
        self._sender.greet(MAX_STREAMS, MAX_FRAME_BYTES, self._limits.head_bytes)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._silent or self.transport.is_closing():
            return
        try:
            self._take(self._listener.read_buffer[:nbytes])
        except Http2Error as error:
            self._break(error)
        if self.transport.get_write_buffer_size() > _UNREAD_BYTES:
            self.transport.abort()

    def pause_writing(self) -> None:
        self._sender.pause()

    def resume_writing(self) -> None:
        if not self._silent:
            self._sender.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        for stream in list(self._streams.values()):
            self._drop(stream)

    # ---- frames ----

    def _take(self, data: memoryview) -> None:
        """Takes all whole frames; of one that is not, what came waits in the buffer, and only that is copied."""
        while self._buffer and data:
            more = self._whole_bytes(self._buffer) - len(self._buffer)
            self._buffer += data[:more]
            data = data[more:]
            if self._read(memoryview(self._buffer)):
                self._buffer = bytearray()
        if data:
            self._buffer += data[self._read(data) :]

    def _whole_bytes(self, data: bytearray) -> int:
        """The size of what `data` begins with: the preface, a frame, or a frame's head where that is not there yet."""
        if not self._greeted:
            return len(http2.PREFACE)
        return http2.HEAD_BYTES + (http2.read_head(data)[0] if len(data) >= http2.HEAD_BYTES else 0)

    def _read(self, data: memoryview) -> int:
        """Reads whole frames; returns how many bytes they were."""
        position = 0
        if not self._greeted:
            if not http2.PREFACE.startswith(data[: len(http2.PREFACE)]):
                raise Http2Error(http2.PROTOCOL_ERROR, "no HTTP/2")
            if len(data) < len(http2.PREFACE):
                return 0
            self._greeted, position = True, len(http2.PREFACE)
        while len(data) - position >= http2.HEAD_BYTES:
            size, kind, flags, number = http2.read_head(data, position)
            if size > MAX_FRAME_BYTES:
                raise Http2Error(http2.FRAME_SIZE_ERROR, "a frame is too large")
            start = position + http2.HEAD_BYTES
            if len(data) < start + size:
                break
            position = start + size
            if kind == http2.DATA and number and self._introduced and not self._block:
                self._on_data(number, flags, data[start:position])
            else:
                self._check_order(kind, flags, number)
                self._frame(kind, flags, number, bytes(data[start:position]))
        return position

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:  # any but DATA
        if kind == http2.HEADERS:
            self._on_headers(number, flags, http2.unpadded(flags, payload))
        elif kind == http2.CONTINUATION:
            if not self._block or self._block[0] != number:
                raise Http2Error(http2.PROTOCOL_ERROR, "nothing is to be continued")
            _, first_flags, begin = self._block
            self._on_headers(number, first_flags | flags & http2.END_HEADERS, begin + payload)
        elif kind == http2.WINDOW_UPDATE:
            self._on_window(number, http2.number(payload) & http2.MAX_WINDOW)
        elif kind == http2.RST_STREAM:
            http2.number(payload)
            if stream := self._known(number):
                self._drop(stream)
        elif kind == http2.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == http2.PING:
            http2.number(payload, 8)
            if not flags & http2.ACK:
                self.transport.write(http2.frame(http2.PING, http2.ACK, 0, payload))
        elif kind == http2.PUSH_PROMISE:
            raise Http2Error(http2.PROTOCOL_ERROR, "a client promises nothing")

    def _check_order(self, kind: int, flags: int, number: int) -> None:
        if self._block and kind != http2.CONTINUATION:
            raise Http2Error(http2.PROTOCOL_ERROR, "a header block is not continued")
        if not self._introduced and (kind != http2.SETTINGS or flags & http2.ACK):
            raise Http2Error(http2.PROTOCOL_ERROR, "no SETTINGS at first")
        if kind in (http2.OF_CONNECTION if number else http2.OF_STREAM):
            raise Http2Error(http2.PROTOCOL_ERROR, "a frame for a wrong stream")

    def _known(self, number: int) -> Stream | None:
        """The stream, None where it is answered already; raises Http2Error where it was never opened."""
        if number > self._last or number % 2 == 0:
            raise Http2Error(http2.PROTOCOL_ERROR, "a stream that was never opened")
        return self._streams.get(number)

    def _on_headers(self, number: int, flags: int, block: bytes) -> None:
        if len(block) > self._limits.head_bytes:
            raise Http2Error(http2.ENHANCE_YOUR_CALM, "headers are too large")
        if not flags & http2.END_HEADERS:
            if self._block is None:
                self.since = time.monotonic()
            self._block = (number, flags, block)
            return
        self._block = None
        headers = self._headers.read(block)
        stream = self._streams.get(number)
        if stream is None:
            stream = self._open(number, headers)
        elif stream.ended or not flags & http2.END_STREAM:
            raise Http2Error(http2.PROTOCOL_ERROR, "headers in the middle of a stream")
        if stream and flags & http2.END_STREAM:
            self._whole(stream)

    def _open(self, number: int, headers: Mapping[bytes, bytes]) -> Stream | None:
        if number <= self._last:
            return None  # trailers of a stream that is answered already
        if number % 2 == 0:
            raise Http2Error(http2.PROTOCOL_ERROR, "a client's streams have odd numbers")
        self._last = number
        if self._closing or len(self._streams) >= MAX_STREAMS:
            self.transport.write(http2.reset(number, http2.REFUSED_STREAM))
            return None
        if headers.get(b"content-type", b"").partition(b";")[0].rstrip() not in _CONTENT_TYPES:
            self._sender.refuse(number, b"415", "content-type: must be application/grpc")
            return None
        path = headers.get(b":path", b"")
        handler = self._handlers.get(path)
        encoding = headers.get(b"grpc-encoding", b"")
        stream = Stream(number, handler or grpc_stream.unknown, self._sender.first_window, encoding)
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
        self._taken += len(payload)
        if self._taken > http2.MAX_WINDOW // 4:
            self.transport.write(http2.widen_connection(self._taken))
            self._taken = 0
        stream = self._streams.get(number) or self._known(number)
        if stream is None:
            return
        if stream.ended:
            raise Http2Error(http2.STREAM_CLOSED, "data after the end")
        data = http2.unpadded(http2.PADDED, payload) if flags & http2.PADDED else payload
        if data and not self._add(stream, data):
            return
        if flags & http2.END_STREAM:
            self._whole(stream)

    def _add(self, stream: Stream, data: memoryview) -> bool:
        """False where the message is over a limit, which is answered then."""
        body = stream.body
        try:
            self._hold(stream, len(data), len(body) + len(data) - stream.pad - PREFIX.size)
        except ServingError as error:
            self._fail(stream, error)
            return False
        if not body:
            stream.body = bytes(data)  # most often all
        elif isinstance(body, bytes):
            stream.pad = grpc_stream.pad_of(body)
            stream.body = bytearray(stream.pad) + body + data
        else:
            body += data
        return True

    def _hold(self, stream: Stream, more: int, size: int) -> None:
        """Takes `more` bytes of a message that has then `size`; raises what it is refused for."""
        if size > self._limits.body_bytes:
            raise TooLarge(f"message: larger than {self._limits.body_bytes} bytes")
        if self._listener.held_bytes + more > self._limits.held_bytes:
            raise Unavailable(f"requests in flight hold {self._limits.held_bytes} bytes; try again later")
        self._listener.held_bytes += more
        stream.held_bytes += more

    def _on_window(self, number: int, more: int) -> None:
        if number == 0:
            self._sender.widen(more)
        elif stream := self._known(number):
            self._sender.widen_stream(stream, more)

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & http2.ACK:
            http2.number(payload, 0)
            return
        self._introduced = True
        self._sender.set_up(payload, self._streams.values())
        self.transport.write(http2.frame(http2.SETTINGS, http2.ACK, 0))

    # ---- requests and answers ----

    @property
    def idle(self) -> bool:
        return not self._streams

    def _whole(self, stream: Stream) -> None:
        stream.ended = True
        task = asyncio.get_running_loop().create_task(self._answer(stream))
        stream.task = task
        self._listener.tasks.add(task)
        task.add_done_callback(self._listener.tasks.discard)

    async def _answer(self, stream: Stream) -> None:
        try:
            if time.monotonic() >= stream.deadline:
                raise TooSlow(_TOO_LATE)
            compressed, message = grpc_stream.message_of(memoryview(stream.body)[stream.pad :])
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
            self._hold(stream, len(piece), len(whole) + len(piece))
            whole += piece
        return memoryview(whole)

    def _expire(self, stream: Stream) -> None:
        """Its client waits no longer."""
        if stream.pending:
            self._reset(stream)
            return
        self._fail(stream, TooSlow(_TOO_LATE))
        if stream.task:
            stream.task.cancel()

    def _reset(self, stream: Stream) -> None:
        """Its answer has begun, and has no other end."""
        self.transport.write(http2.reset(stream.id, http2.CANCEL))
        self._drop(stream)

    def _fail(self, stream: Stream, error: ServingError) -> None:
        """The answer of a request that failed; what of it is still to come is not wanted."""
        if stream.id not in self._streams:
            return
        self.transport.write(self._sender.headers(stream.id, http2.END_STREAM, grpc_stream.failure(error)))
        if not stream.ended:
            self.transport.write(http2.reset(stream.id, http2.NO_ERROR))
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._listener.held_bytes -= stream.held_bytes
        stream.body, stream.pad = b"", 0
        if stream.timer:
            stream.timer.cancel()
        self._sender.drop(stream)
        self.since = time.monotonic()
        if self._closing and not self._streams:
            self._fall_silent()

    def _drop(self, stream: Stream) -> None:
        """Its client has gone away."""
        self._end(stream)
        if stream.task:
            stream.task.cancel()

    # ---- ends ----

    def check(self, now: float) -> None:
        """Ends what takes too long; called now and then."""
        limits = self._limits
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self.since = unsent, now
        elif unsent and now - self.since > limits.write_s:
            self.transport.abort()
        if self._silent:
            if not unsent and now - self.since > _LINGER_S:
                self.transport.abort()
            return
        if (not self._greeted or self._block) and now - self.since > limits.request_s:
            self.transport.abort()
        for stream in list(self._streams.values()):
            took_s = now - stream.since
            if not stream.ended and took_s > limits.request_s + len(stream.body) / limits.body_bytes_per_s:
                self._fail(stream, TooSlow(f"message: not complete after {took_s:.0f} s"))
            elif stream.pending and took_s > limits.write_s:
                self._reset(stream)

    def close_when_idle(self) -> None:
        """The server stops: streams that are open get their answers."""
        if self._silent:
            return
        self._closing = True
        self.transport.write(http2.goodbye(self._last, http2.NO_ERROR))
        if not self._streams:
            self.transport.close()

    def _break(self, error: Http2Error) -> None:
        self.transport.write(http2.goodbye(self._last, error.code, str(error)))
        self._fall_silent()
        for stream in list(self._streams.values()):
            self._drop(stream)

    def _fall_silent(self) -> None:
        """Ends the connection once the client has taken what is written; nothing more is read or said."""
        if self._silent or self.transport.is_closing():
            return
        self._silent = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.since = time.monotonic()
        else:
            self.transport.close()
