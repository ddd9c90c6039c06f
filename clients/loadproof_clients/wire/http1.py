"""HTTP/1.1 (RFC 9112) as a client needs it: one request at a time on a connection that is kept."""

from __future__ import annotations

import re
import socket
from functools import lru_cache
from typing import Final, NamedTuple

from loadproof_clients.records import UNKNOWN_NS
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

STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n]*)?")
CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
NO_BODY: Final = (204, 304)


class Head(NamedTuple):
    """What the lines before a body say; `length` is None where the body ends with the connection."""

    status: int
    headers: dict[bytes, bytes]
    length: int | None
    is_chunked: bool
    is_kept: bool


@lru_cache(256)  # a server says the same again and again, but for its date
def read_head(block: bytes) -> Head:
    """The status line and the header lines, without the empty line; raises Broken."""
    first, *lines = block.split(b"\r\n")
    matched = STATUS_LINE.fullmatch(first)
    if not matched:
        raise Broken(f"not HTTP/1: {first[:80]!r}")
    status, headers = int(matched[2]), _headers(lines)
    coding = headers.get(b"transfer-encoding", b"identity").lower()
    if coding not in (b"identity", b"chunked") or status == 101:
        raise Broken("a coding or a protocol that was not asked for")
    length = headers.get(b"content-length")
    options = [option.strip() for option in headers.get(b"connection", b"").lower().split(b",")]
    return Head(
        status,
        headers,
        0 if status in NO_BODY else None if length is None else digits(length, "length"),
        coding == b"chunked" and status not in NO_BODY,
        b"close" not in options and (matched[1] == b"1" or b"keep-alive" in options),
    )


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """By name in lower case; of one that comes twice the last value."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise Broken(f"not a header: {line[:80]!r}")
        name, value = name.lower(), value.strip()
        if name == b"content-length" and headers.get(name, value) != value:
            raise Broken("two lengths of one body")
        headers[name] = value
    return headers


class Chunks:
    """A body in chunks (RFC 9112, 7.1), as it comes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._data = bytearray()  # what came of the next chunk
        self.left = 0  # bytes that came after the body's end

    def take(self) -> list[bytes]:
        """The chunks that came whole since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def feed(self, data: bytes) -> bool:
        """Whether the body's end has come; raises Broken."""
        self._data += data
        at, end = 0, None
        while (found := self._next(at)) is not None:
            at, is_last = found
            if is_last:
                end = self._end(at)
                break
        if end is None:
            del self._data[:at]
            return False
        self.left = len(self._data) - end
        return True

    def _next(self, at: int) -> tuple[int, bool] | None:
        """Where the chunk at `at` ends, or that it is the last one, at the end of its line; None: it is not whole."""
        end = self._data.find(b"\r\n", at, at + HEAD_BYTES_MAX)
        if end < 0:
            if len(self._data) - at >= HEAD_BYTES_MAX:
                raise Broken("a chunk without a size")
            return None
        matched = CHUNK_SIZE.fullmatch(self._data, at, end)
        if not matched:
            raise Broken(f"not a chunk's size: {bytes(self._data[at:end])[:80]!r}")
        size, begin = int(matched[1], 16), end + 2
        if not size:
            return at, True
        if len(self._data) < begin + size + 2:
            return None
        if self._data[begin + size : begin + size + 2] != b"\r\n":
            raise Broken("a chunk longer than its size")
        self._pieces.append(bytes(self._data[begin : begin + size]))
        return begin + size + 2, False

    def _end(self, at: int) -> int | None:
        """The end of the trailers, which are not read; `at` is the begin of the last chunk's line."""
        at = self._data.index(b"\r\n", at)
        if self._data[at + 2 : at + 4] == b"\r\n":
            return at + 4
        end = self._data.find(b"\r\n\r\n", at, at + HEAD_BYTES_MAX)
        if end < 0 and len(self._data) - at >= HEAD_BYTES_MAX:
            raise Broken("trailers without an end")
        return end + 4 if end >= 0 else None


class Http1(Connection):
    """One connection (connection.Connection)."""

    def __init__(self, owner: Owner, sock: socket.socket) -> None:
        super().__init__(owner, sock)
        self._exchange: WireExchange | None = None
        self._head: Head | None = None  # once it came
        self._early = b""  # of a head that did not come whole
        self._left = 0  # of a body whose length is known
        self._chunks: Chunks | None = None

    @staticmethod
    def named(head: bytes, request_id: bytes) -> bytes:
        return head + request_id

    def send(self, exchange: WireExchange, head: bytes, body: bytes) -> None:
        self._exchange = exchange
        self._write(head, b"\r\n\r\n", body)

    def drop(self, exchange: WireExchange) -> None:
        self.close()

    def _in_flight(self) -> list[WireExchange]:
        return [self._exchange] if self._exchange else []

    def take(self, data: bytes, now_ns: int) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # no request is in flight
            return
        if exchange.first_byte_ns == UNKNOWN_NS:
            exchange.first_byte_ns = now_ns
        while self._head is None:
            data = self._early + data
            end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
            if end < 0:
                if len(data) >= HEAD_BYTES_MAX or not b"HTTP/1."[: len(data)] == data[:7]:
                    raise Broken(f"not the head of an answer of HTTP/1: {data[:80]!r}")
                self._early = data
                return
            head, self._early, data = read_head(data[:end]), b"", data[end + 4 :]
            exchange.head_size += end + 4
            if exchange.head_size > HEAD_BYTES_MAX:
                raise Broken("interim answers without an end")
            if head.status >= 200:
                if head.length is not None and head.length > self._owner.answer_bytes_max:
                    raise TooLarge(self._owner.answer_bytes_max)
                self._head = head
                self._left = head.length or 0
                self._chunks = Chunks() if head.is_chunked else None
        self._body(exchange, self._head, data, now_ns)

    def _body(self, exchange: WireExchange, head: Head, data: bytes, now_ns: int) -> None:
        if data and len(data) == self._left:  # the usual answer: its rest, of a known length, in one read
            exchange.pieces.append(data)
            exchange.piece_ns.append(now_ns)
            self._finish(exchange, head, now_ns, True)
            return
        is_whole, is_clean = False, True
        pieces = [data] if data else []
        exchange.size += len(data)  # with all that frames it: what never ends is too large
        if self._chunks:
            is_whole = self._chunks.feed(data)
            pieces = self._chunks.take()
            is_clean = not self._chunks.left
            exchange.size += PIECE_BYTES * len(pieces)
        elif head.length is not None:
            left = self._left
            self._left -= len(data)
            is_whole, is_clean = len(data) >= left, len(data) == left
            if len(data) > left:
                pieces = [data[:left]] if left else []
        if exchange.size > self._owner.answer_bytes_max + HEAD_BYTES_MAX and not is_whole:
            raise TooLarge(self._owner.answer_bytes_max)
        exchange.pieces += pieces
        exchange.piece_ns += [now_ns] * len(pieces)
        if is_whole:
            self._finish(exchange, head, now_ns, is_clean)

    def _finish(self, exchange: WireExchange, head: Head, now_ns: int, is_clean: bool = True) -> None:
        self._exchange = self._head = None
        if head.is_kept and is_clean and not self._unsent:
            self._owner.free(self)
        else:
            self.close()
        exchange.answer = Answer(head.status, head.headers, exchange.body())
        self._owner.ended(exchange, now_ns)

    def _end(self, now_ns: int) -> None:
        exchange, head = self._exchange, self._head
        if exchange and head and head.length is None and not head.is_chunked:
            self._finish(exchange, head, now_ns, False)
        else:
            super()._end(now_ns)
