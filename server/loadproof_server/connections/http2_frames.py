"""The receiving half of an HTTP/2 connection: reads frames, checks their order, and joins header blocks.

A frame is passed on as soon as it is complete; DATA is passed as a view of the listener's buffer, without a copy.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from loadproof_server.connections import http2
from loadproof_server.connections.http2 import Http2Error
from loadproof_server.connections.listener import ListenerState

MAX_FRAME_BYTES: Final = 1 << 16


class FrameReceiver(asyncio.BufferedProtocol, ABC):
    """A connection as an asyncio protocol, as far as it receives frames."""

    transport: Any

    def __init__(self, listener: ListenerState) -> None:
        self._listener, self._limits = listener, listener.limits
        self._buffer = bytearray()
        self._preface_received = False
        self._settings_received = False  # the client's first ones
        self._header_reader = http2.HeaderReader(listener.limits.head_bytes)
        self._header_block: tuple[int, int, bytes] | None = None  # stream, flags and beginning of a header block
        self.since = time.monotonic()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.read_buffer

    def _receive(self, data: memoryview) -> None:
        """Reads all complete frames; only the beginning of an incomplete one is copied, into the buffer."""
        while self._buffer and data:
            more = self._size_of_first(self._buffer) - len(self._buffer)
            self._buffer += data[:more]
            data = data[more:]
            if self._read(memoryview(self._buffer)):
                self._buffer = bytearray()
        if data:
            self._buffer += data[self._read(data) :]

    def _size_of_first(self, data: bytearray) -> int:
        """The size of what `data` begins with: the preface, a frame, or a frame's head while that is incomplete."""
        if not self._preface_received:
            return len(http2.PREFACE)
        return http2.HEAD_BYTES + (http2.read_head(data)[0] if len(data) >= http2.HEAD_BYTES else 0)

    def _read(self, data: memoryview) -> int:
        """Reads whole frames; returns how many bytes they were."""
        position = 0
        if not self._preface_received:
            if not http2.PREFACE.startswith(data[: len(http2.PREFACE)]):
                raise Http2Error(http2.PROTOCOL_ERROR, "no HTTP/2")
            if len(data) < len(http2.PREFACE):
                return 0
            self._preface_received, position = True, len(http2.PREFACE)
        while len(data) - position >= http2.HEAD_BYTES:
            size, kind, flags, number = http2.read_head(data, position)
            if size > MAX_FRAME_BYTES:
                raise Http2Error(http2.FRAME_SIZE_ERROR, "a frame is too large")
            start = position + http2.HEAD_BYTES
            if len(data) < start + size:
                break
            position = start + size
            if kind == http2.DATA and number and self._settings_received and not self._header_block:
                self._on_data(number, flags, data[start:position])
            else:
                self._check_order(kind, flags, number)
                self._frame(kind, flags, number, bytes(data[start:position]))
        return position

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:  # any but DATA
        if kind == http2.HEADERS and flags & http2.END_HEADERS and len(payload) <= self._limits.head_bytes:
            self._on_headers(number, flags, self._header_reader.read(http2.unpadded(flags, payload)))  # the usual case
        elif kind == http2.HEADERS:
            self._on_header_fragment(number, flags, http2.unpadded(flags, payload))
        elif kind == http2.CONTINUATION:
            if not self._header_block or self._header_block[0] != number:
                raise Http2Error(http2.PROTOCOL_ERROR, "nothing is to be continued")
            _, first_flags, begin = self._header_block
            self._on_header_fragment(number, first_flags | flags & http2.END_HEADERS, begin + payload)
        elif kind == http2.WINDOW_UPDATE:
            self._on_window_update(number, http2.number(payload) & http2.MAX_WINDOW)
        elif kind == http2.RST_STREAM:
            http2.number(payload)
            self._on_reset(number)
        elif kind == http2.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == http2.PING:
            http2.number(payload, 8)
            if not flags & http2.ACK:
                self.transport.write(http2.frame(http2.PING, http2.ACK, 0, payload))
        elif kind == http2.PUSH_PROMISE:
            raise Http2Error(http2.PROTOCOL_ERROR, "a client promises nothing")

    def _check_order(self, kind: int, flags: int, number: int) -> None:
        if self._header_block and kind != http2.CONTINUATION:
            raise Http2Error(http2.PROTOCOL_ERROR, "a header block is not continued")
        if not self._settings_received and (kind != http2.SETTINGS or flags & http2.ACK):
            raise Http2Error(http2.PROTOCOL_ERROR, "no SETTINGS at first")
        if kind in (http2.OF_CONNECTION if number else http2.OF_STREAM):
            raise Http2Error(http2.PROTOCOL_ERROR, "a frame for a wrong stream")

    def _on_header_fragment(self, number: int, flags: int, block: bytes) -> None:
        if len(block) > self._limits.head_bytes:
            raise Http2Error(http2.ENHANCE_YOUR_CALM, "headers are too large")
        if not flags & http2.END_HEADERS:
            if self._header_block is None:
                self.since = time.monotonic()
            self._header_block = (number, flags, block)
            return
        self._header_block = None
        self._on_headers(number, flags, self._header_reader.read(block))

    # ---- by a subclass ----

    @abstractmethod
    def _on_headers(self, number: int, flags: int, headers: Mapping[bytes, bytes]) -> None:
        """A complete header block; raises Http2Error, as all of these."""

    @abstractmethod
    def _on_data(self, number: int, flags: int, payload: memoryview) -> None:
        """DATA, which may be padded; the payload is valid during the call only."""

    @abstractmethod
    def _on_reset(self, number: int) -> None: ...

    @abstractmethod
    def _on_window_update(self, number: int, more: int) -> None: ...

    @abstractmethod
    def _on_settings(self, flags: int, payload: bytes) -> None: ...
