"""The sending half of an HTTP/2 connection: sends answers as far as the client's windows and its reading allow.

While the transport is full no data is handed to it, so a client that reads nothing costs no more memory than the
answers of its open streams. Reading goes on meanwhile: a client that must write before it can read, as HAProxy does
when an upload fills its buffer, would otherwise wait forever.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from loadproof_server.connections import http2
from loadproof_server.connections.grpc_stream import OK_TRAILERS, PREFIX, RESPONSE_HEADERS, Stream
from loadproof_server.connections.http2 import Http2Error

_TURN_BYTES: Final = 1 << 18  # of one answer, before the next one has its turn
_FRAME_BYTES: Final = 1 << 16  # at most, whatever the client would take
_CLEAR_TABLE: Final = b"\x20"  # HPACK's size update, for a client whose table is smaller than the default
_ENDED: Final = http2.END_HEADERS | http2.END_STREAM


class Sender:
    """Writes answers to `transport`, and calls `on_finished` after each."""

    transport: Any

    def __init__(self, on_finished: Callable[[Stream], None]) -> None:
        self._on_finished = on_finished
        self._window = self.first_window = http2.DEFAULT_WINDOW
        self._frame_bytes = http2.DEFAULT_FRAME
        self._paused = False
        self._must_clear_table: bool | None = None  # whether the next header block must set our table's size to 0
        self._waiting: dict[int, Stream] = {}  # in the order of their turns

    def send_settings(self, streams: int, frame_bytes: int, head_bytes: int) -> None:
        """Sends our limits to the client; windows have the maximum size, because bodies are bounded elsewhere."""
        values = {
            http2.MAX_CONCURRENT_STREAMS: streams,
            http2.INITIAL_WINDOW_SIZE: http2.MAX_WINDOW,
            http2.MAX_FRAME_SIZE: frame_bytes,
            http2.MAX_HEADER_LIST_SIZE: head_bytes,
        }
        self.transport.write(http2.settings(values) + http2.widen_connection(http2.MAX_WINDOW - http2.DEFAULT_WINDOW))

    def refuse(self, number: int, status: bytes, message: str) -> None:
        """Answers a request that is not gRPC, with an HTTP status."""
        block = http2.literal(b":status", status) + http2.literal(b"content-type", b"application/json")
        error = json.dumps({"error": message}).encode()
        head = self.headers(number, 0, block)
        self.transport.write(head + http2.frame(http2.DATA, http2.END_STREAM, number, error))

    def headers(self, number: int, flags: int, block: bytes) -> bytes:
        if self._must_clear_table:
            self._must_clear_table, block = False, _CLEAR_TABLE + block
        return http2.frame(http2.HEADERS, http2.END_HEADERS | flags, number, block)

    def answer(self, stream: Stream, parts: Sequence[bytes]) -> None:
        """Sends the message, given in parts, and then the trailers of a success."""
        size = sum(map(len, parts))
        prefix = PREFIX.pack(0, size)
        head = self.headers(stream.id, 0, RESPONSE_HEADERS)
        whole = size + len(prefix)
        if whole <= min(self._window, stream.window, self._frame_bytes) and not self._paused:
            self._window -= whole
            data = http2.frame_head(http2.DATA, 0, stream.id, whole)
            self.transport.write(b"".join((head, data, prefix, *parts, _trailers(stream))))
            self._on_finished(stream)
            return
        self.transport.write(head)
        stream.pending.extend(memoryview(part) for part in (prefix, *parts) if part)
        stream.since = time.monotonic()
        self._waiting[stream.id] = stream
        self._send_waiting([stream])

    def drop(self, stream: Stream) -> None:
        """Sends no more of it."""
        self._waiting.pop(stream.id, None)

    # ---- what the client allows ----

    def widen_window(self, more: int) -> None:
        """Adds to the connection's window; raises Http2Error."""
        self._window = _widened(self._window, more)
        self._send_waiting(self._waiting.values())

    def widen_stream_window(self, stream: Stream, more: int) -> None:
        """Adds to one stream's window; raises Http2Error."""
        stream.window = _widened(stream.window, more)
        if stream.id in self._waiting:
            self._send_waiting([stream])

    def apply_settings(self, payload: bytes, streams: Iterable[Stream]) -> None:
        """Applies a SETTINGS frame, which may shrink open windows; raises Http2Error."""
        first = self.first_window
        for name, value in http2.read_settings(payload):
            if name == http2.INITIAL_WINDOW_SIZE:
                if value > http2.MAX_WINDOW:
                    raise Http2Error(http2.FLOW_CONTROL_ERROR, "a window of a wrong size")
                first = value
            elif name == http2.MAX_FRAME_SIZE:
                if not http2.DEFAULT_FRAME <= value < 1 << 24:
                    raise Http2Error(http2.PROTOCOL_ERROR, "a frame size of a wrong size")
                self._frame_bytes = min(value, _FRAME_BYTES)
            elif name == http2.HEADER_TABLE_SIZE and value < http2.DEFAULT_TABLE and self._must_clear_table is None:
                self._must_clear_table = True
        if more := first - self.first_window:
            self.first_window = first
            for stream in streams:
                stream.window += more
                if stream.window > http2.MAX_WINDOW:
                    raise Http2Error(http2.FLOW_CONTROL_ERROR, "a window of a wrong size")
            self._send_waiting(self._waiting.values())

    def pause(self) -> None:
        """The client does not read."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._send_waiting(self._waiting.values())

    # ---- turns ----

    def _send_waiting(self, streams: Iterable[Stream]) -> None:
        """Sends as much of these waiting answers as the windows allow: a piece of each in turn."""
        turns = deque(streams)
        while turns and self._window > 0 and not self._paused:
            stream = turns.popleft()
            if stream.window > 0 and self._send_piece(stream):
                turns.append(stream)

    def _send_piece(self, stream: Stream) -> bool:
        """False once the answer is complete."""
        pieces: list[bytes | memoryview] = []
        left = _TURN_BYTES
        while stream.pending and (room := min(left, self._window, stream.window, self._frame_bytes)) > 0:
            part = stream.pending.popleft()
            if len(part) > room:
                stream.pending.appendleft(part[room:])
                part = part[:room]
            pieces += (http2.frame_head(http2.DATA, 0, stream.id, len(part)), part)
            left -= len(part)
            self._window -= len(part)
            stream.window -= len(part)
        stream.since = time.monotonic()
        del self._waiting[stream.id]
        if stream.pending:
            self._waiting[stream.id] = stream  # behind the others
            self.transport.writelines(pieces)
            return True
        self.transport.writelines([*pieces, _trailers(stream)])
        self._on_finished(stream)
        return False


def _trailers(stream: Stream) -> bytes:
    return http2.frame(http2.HEADERS, _ENDED, stream.id, OK_TRAILERS)


def _widened(window: int, more: int) -> int:
    if not more or window + more > http2.MAX_WINDOW:
        raise Http2Error(http2.FLOW_CONTROL_ERROR, "a window of a wrong size")
    return window + more
