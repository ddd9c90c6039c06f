"""HTTP/2 (RFC 9113) as a gRPC client needs it: many requests on one connection, with prior knowledge, without push."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from loadproof_clients.records import CONNECTION, OK, UNKNOWN_NS
from loadproof_clients.wire import frames
from loadproof_clients.wire.connection import (
    HEAD_BYTES_MAX,
    PIECE_BYTES,
    Answer,
    Broken,
    Connection,
    Owner,
    TooLarge,
    WireExchange,
    digits,
)
from loadproof_clients.wire.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    RST_STREAM,
    frame,
    frame_head,
)

REFILL_BYTES: Final = 1 << 30  # of the connection's window of 2 GiB; a stream's is as large, and no answer is larger
GREETING: Final = (
    frames.PREFACE
    + frames.settings({frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: frames.WINDOW_MAX})
    + frames.window_update(frames.WINDOW_MAX - frames.DEFAULT_WINDOW)
)
REPLIES_MAX: Final = 10_000  # pieces that wait to be sent
BATCH_BYTES: Final = 1 << 20  # of large bodies, cut into frames at once


class Refused(Broken):
    """The server ended a stream; the connection goes on."""

    status = CONNECTION


class Http2(Connection):
    """One connection (connection.Connection).

    A request over the peer's limit of streams waits, as in every gRPC library, and its time runs.
    """

    takes_many = True

    def __init__(self, owner: Owner, sock: socket.socket) -> None:
        super().__init__(owner, sock)
        self._headers = frames.HeaderReader()
        self._streams: dict[int, WireExchange] = {}
        self._large: dict[int, WireExchange] = {}  # those of which body is left to be sent
        self._waiting: dict[WireExchange, tuple[bytes, bytes]] = {}  # for a stream, in order
        self._next = 1
        self._is_leaving = False
        self._limit, self._is_met = frames.UNMET_STREAMS, False  # how many, and whether the peer has said so
        self._window = self._stream_window = frames.DEFAULT_WINDOW  # what the peer takes
        self._frame_max = frames.DEFAULT_FRAME
        self._early = b""  # of a frame that did not come whole
        self._block: tuple[int, int, bytes] | None = None  # flags, stream and begin of a header block that goes on
        self._taken = 0  # of the connection's window, since it was refilled
        self._now_ns = 0  # when the bytes that are being read came
        # with the prefix of a message, and what HTTP/2 frames it by
        self._bytes_max = owner.answer_bytes_max + owner.answer_bytes_max // 100 + HEAD_BYTES_MAX
        self._write(GREETING)

    @staticmethod
    def named(head: bytes, request_id: bytes) -> bytes:
        return head + frames.text(request_id)

    def send(self, exchange: WireExchange, head: bytes, body: bytes) -> None:
        if len(self._streams) >= self._limit:
            self._waiting[exchange] = head, body
            self._owner.held += 1
            return
        number, size = self._next, len(body)
        self._next += 2
        if number == 1:
            head = frames.NO_TABLE + head
        elif number == frames.STREAM_MAX:
            self._leave()
        self._streams[number] = exchange
        exchange.stream = number
        opening = frame_head(HEADERS, END_HEADERS, number, len(head))
        if size <= self._frame_max and size <= self._window and size <= self._stream_window:
            self._window -= size
            self._write(opening, head, frame_head(DATA, END_STREAM, number, size), body)
            return
        exchange.unsent, exchange.window = memoryview(body), self._stream_window
        self._large[number] = exchange
        self._write(opening, head)
        self._drained()

    def drop(self, exchange: WireExchange) -> None:
        if self._streams.get(exchange.stream) is exchange:
            self._reset(exchange.stream)
            self._forget(exchange.stream)
        else:
            self._waiting.pop(exchange, None)

    def _forget(self, number: int) -> None:
        self._streams.pop(number, None)
        self._large.pop(number, None)
        self._admit()
        if self._is_leaving and not self._streams:
            self.close()

    def _admit(self) -> None:
        while self._waiting and len(self._streams) < self._limit and self._next <= frames.STREAM_MAX:
            exchange = next(iter(self._waiting))
            self.send(exchange, *self._waiting.pop(exchange))

    def _reset(self, number: int) -> None:
        self._write(frame(RST_STREAM, 0, number, frames.CANCEL.to_bytes(4, "big")))

    def _leave(self) -> None:
        self._is_leaving = True
        self._owner.leaving(self)

    def _in_flight(self) -> list[WireExchange]:
        return [*self._streams.values(), *self._waiting]

    # large bodies

    def _drained(self) -> None:
        while self._large and not self._unsent and self.is_open:
            batch = b"".join(self._batch())
            if not batch:
                return
            self._write(batch)

    def _batch(self) -> Iterator[bytes | memoryview]:
        """Frames, of about BATCH_BYTES, as far as the windows allow."""
        left = BATCH_BYTES
        for number, exchange in list(self._large.items()):
            while left > 0 and (size := min(len(exchange.unsent), self._frame_max, self._window, exchange.window)) > 0:
                is_last = size == len(exchange.unsent)
                yield frame_head(DATA, END_STREAM if is_last else 0, number, size)
                yield exchange.unsent[:size]
                exchange.unsent = exchange.unsent[size:]
                exchange.window -= size
                self._window -= size
                left -= size
            if not exchange.unsent:
                del self._large[number]

    # what comes

    def take(self, data: bytes, now_ns: int) -> None:
        ended: list[WireExchange] = []
        self._now_ns = now_ns
        try:
            self._frames(self._early + data if self._early else data, ended)
        finally:
            for exchange in ended:
                if exchange.status == OK:
                    exchange.answer = Answer(exchange.http_status, exchange.headers, exchange.body())
                self._owner.ended(exchange, now_ns)

    def _frames(self, data: bytes, ended: list[WireExchange]) -> None:
        at, end = 0, len(data)
        while end - at >= frames.HEAD_BYTES:
            high, low, kind, flags, number = frames.HEAD.unpack_from(data, at)
            size, begin = high << 8 | low, at + frames.HEAD_BYTES
            if size > frames.DEFAULT_FRAME:
                raise Broken("a frame that is too large, or not HTTP/2")
            if begin + size > end:
                break
            at = begin + size
            self._frame(kind, flags, number & frames.STREAM_MAX, data[begin:at], ended)
        self._early = data[at:]
        if self._taken >= REFILL_BYTES:
            self._write(frames.window_update(self._taken))
            self._taken = 0

    def _frame(self, kind: int, flags: int, number: int, payload: bytes, ended: list[WireExchange]) -> None:
        if self._block and (kind != frames.CONTINUATION or number != self._block[1]):
            raise Broken("a header block that does not go on")
        if kind == DATA:
            self._data(flags, number, payload, ended)
        elif kind == HEADERS:
            self._head(flags, number, frames.unpadded(flags, payload), ended)
        elif kind == frames.CONTINUATION:
            self._continue(flags, payload, ended)
        elif kind in CONTROL:
            CONTROL[kind](self, flags, number, payload, ended)
        elif kind == frames.PUSH_PROMISE:
            raise Broken("a push that was not asked for")

    def _data(self, flags: int, number: int, payload: bytes, ended: list[WireExchange]) -> None:
        self._taken += len(payload)
        exchange = self._streams.get(number)
        if exchange is None:
            self._check_known(number)
            return
        if flags & PADDED:
            payload = frames.unpadded(PADDED, payload)
        exchange.size += len(payload) + PIECE_BYTES
        if exchange.size > self._bytes_max:
            self._reset(number)
            self._fail_stream(exchange, TooLarge(self._owner.answer_bytes_max), ended)
            return
        exchange.pieces.append(payload)
        exchange.piece_ns.append(self._now_ns)
        if flags & END_STREAM:
            self._finish(exchange, ended)

    def _head(self, flags: int, number: int, block: bytes, ended: list[WireExchange]) -> None:
        if not flags & END_HEADERS:
            self._block = flags, number, block
            return
        headers = self._headers.read(block)  # also of a request that was given up: the table is the connection's
        exchange = self._streams.get(number)
        if exchange is None:
            self._check_known(number)
            return
        if exchange.first_byte_ns == UNKNOWN_NS:
            exchange.first_byte_ns = self._now_ns
        exchange.head_size += len(block) + PIECE_BYTES
        if exchange.head_size > HEAD_BYTES_MAX:
            raise Broken("interim answers without an end")
        if (status := headers.get(b":status")) is not None:
            exchange.http_status = digits(status, "status")
        exchange.headers = headers  # in the end the trailers
        if flags & END_STREAM:
            self._finish(exchange, ended)

    def _continue(self, flags: int, payload: bytes, ended: list[WireExchange]) -> None:
        if not self._block:
            raise Broken("the rest of a header block that did not begin")
        flags_before, number, block = self._block
        if len(block) + len(payload) > HEAD_BYTES_MAX:
            raise Broken("headers are too large")
        self._block = None
        self._head(flags_before | flags & END_HEADERS, number, block + payload, ended)

    def _finish(self, exchange: WireExchange, ended: list[WireExchange]) -> None:
        ended.append(exchange)
        if exchange.stream in self._large:
            self._reset(exchange.stream)
        self._forget(exchange.stream)

    def _check_known(self, number: int) -> None:
        """Frames may come late, for a request that was given up, but not early."""
        if number >= self._next or number % 2 == 0:
            raise Broken("a frame of a stream that was not opened")

    def _fail_stream(self, exchange: WireExchange, why: Broken, ended: list[WireExchange]) -> None:
        exchange.status, exchange.message = why.status, str(why)
        exchange.pieces.clear()
        ended.append(exchange)
        self._forget(exchange.stream)

    def _reset_came(self, flags: int, number: int, payload: bytes, ended: list[WireExchange]) -> None:
        code, exchange = frames.number(payload), self._streams.get(number)
        if exchange:
            self._fail_stream(exchange, Refused(f"the server reset the stream (error {code})"), ended)
        else:
            self._check_known(number)

    def _settings_came(self, flags: int, number: int, payload: bytes, ended: list[WireExchange]) -> None:
        if flags & frames.ACK:
            return
        if not self._is_met:
            self._limit, self._is_met = frames.WINDOW_MAX, True
        for name, value in frames.read_settings(payload):
            if name == frames.MAX_CONCURRENT_STREAMS:
                self._limit = value
            elif name == frames.INITIAL_WINDOW_SIZE and value <= frames.WINDOW_MAX:
                for exchange in self._large.values():
                    exchange.window += value - self._stream_window
                self._stream_window = value
            elif name == frames.MAX_FRAME_SIZE and frames.DEFAULT_FRAME <= value < 1 << 24:
                self._frame_max = value
            elif name in (frames.INITIAL_WINDOW_SIZE, frames.MAX_FRAME_SIZE):
                raise Broken("a setting that is not allowed")
        self._reply(frame(frames.SETTINGS, frames.ACK, 0))
        self._admit()
        self._drained()

    def _ping_came(self, flags: int, number: int, payload: bytes, ended: list[WireExchange]) -> None:
        if len(payload) != 8:
            raise Broken("a ping of a wrong size")
        if not flags & frames.ACK:
            self._reply(frame(frames.PING, frames.ACK, 0, payload))

    def _reply(self, data: bytes) -> None:
        """What was asked for; a peer that asks and does not read would have it collect here without an end."""
        if len(self._unsent) >= REPLIES_MAX:
            raise Broken("pings or settings, and their answers are not read")
        self._write(data)

    def _goaway_came(self, flags: int, number: int, payload: bytes, ended: list[WireExchange]) -> None:
        """Streams after the last that the server names are refused, those that wait go elsewhere; the others go on."""
        last = frames.number(payload[:4])
        waiting, self._waiting = self._waiting, {}
        self._leave()
        refused = [exchange for number, exchange in self._streams.items() if number > last]
        for exchange in refused:
            self._fail_stream(exchange, Refused("the server goes away"), ended)
        for exchange, (head, body) in waiting.items():
            self._owner.place(exchange, head, body)
        if not self._streams:
            self.close()

    def _window_came(self, flags: int, number: int, payload: bytes, ended: list[WireExchange]) -> None:
        more, large = frames.number(payload), self._large.get(number)
        if number == 0:
            self._window += more
        elif large:
            large.window += more
        if not more or max(self._window, large.window if large else 0) > frames.WINDOW_MAX:
            raise Broken("a window of a size that is not allowed")
        self._drained()


CONTROL: Final = {
    RST_STREAM: Http2._reset_came,
    frames.SETTINGS: Http2._settings_came,
    frames.PING: Http2._ping_came,
    frames.GOAWAY: Http2._goaway_came,
    frames.WINDOW_UPDATE: Http2._window_came,
}
