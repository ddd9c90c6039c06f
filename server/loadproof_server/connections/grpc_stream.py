"""One gRPC request on an HTTP/2 stream: reads the message from the body, and encodes the headers of the answer.

Source: gRPC's `doc/PROTOCOL-HTTP2.md` and `doc/compression.md`.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time
import urllib.parse
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

from loadproof_server.connections import http2
from loadproof_server.errors import InvalidRequest, NotSupported, ServingError

Handler = Callable[[memoryview], Awaitable[Sequence[bytes]]]  # from a message to the parts of the answer's
PREFIX: Final = struct.Struct(">BI")  # of a message: whether it is compressed, and its size
RESPONSE_HEADERS: Final = b"\x88" + http2.literal(b"content-type", b"application/grpc")  # after :status 200
OK_TRAILERS: Final = http2.literal(b"grpc-status", b"0")
_PRINTED: Final = " !#$&'()*+,/:;<=>?@[]^`{|}~\"\\"  # what a grpc-message holds as it is
_ACCEPTED: Final = http2.literal(b"grpc-accept-encoding", b"identity,deflate,gzip")
_WINDOW_BITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}  # zlib's names of the encodings
_COMPRESSED_PIECE: Final = 1 << 16
_ALIGNMENT: Final = 8  # bytes of the widest element
_PIECE: Final = 1 << 20  # of a decompressed message, in bytes: about 2 ms
_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Stream:
    """One request and its answer."""

    __slots__ = (
        *("alignment_bytes", "body", "deadline", "encoding", "ended", "handler", "held_bytes", "id", "pending"),
        *("since", "task", "timer", "window"),
    )

    def __init__(self, number: int, handler: Handler, window: int, encoding: bytes = b"") -> None:
        self.id, self.handler, self.window, self.encoding = number, handler, window, encoding
        self.body: bytes | bytearray = b""
        self.alignment_bytes = 0  # zeros before the body in its buffer
        self.held_bytes = 0  # of the body, and of the message that was decompressed from it
        self.ended = False  # by the client
        self.task: asyncio.Task[None] | None = None
        self.pending: deque[memoryview] = deque()  # of the answer, that flow control holds back
        self.since = time.monotonic()
        self.deadline = math.inf  # monotonic seconds until which the client waits
        self.timer: asyncio.TimerHandle | None = None


async def unknown_method(message: memoryview) -> Sequence[bytes]:
    """The handler of an unknown method; its stream is answered before its message comes."""
    raise AssertionError("an unknown method is answered at once")


def failure(error: ServingError) -> bytes:
    """The header block of an error, which is an answer of trailers only."""
    status, text = str(error.grpc_status).encode(), urllib.parse.quote(str(error)[:4000], safe=_PRINTED).encode()
    more = _ACCEPTED if isinstance(error, NotSupported) else b""
    return RESPONSE_HEADERS + more + http2.literal(b"grpc-status", status) + http2.literal(b"grpc-message", text)


def timeout_s_of(headers: Mapping[bytes, bytes]) -> float | None:
    """How long the client waits; raises InvalidRequest."""
    text = headers.get(b"grpc-timeout")
    if text is None:
        return None
    number, unit_s = text[:-1], _UNITS_S.get(text[-1:])
    if unit_s is None or not number.isdigit() or len(number) > 8:
        raise InvalidRequest("grpc-timeout: must be a whole number of at most 8 digits and one of HMSmun")
    return int(number) * unit_s


def alignment_of(begin: bytes) -> int:
    """How many zeros to put before a body, which begins with `begin`, in its buffer.

    With them the array of the last raw tensor is aligned and need not be copied: protobuf messages end with raw
    tensors, and these with a whole element.
    """
    if len(begin) < PREFIX.size:
        return 0
    size: int = PREFIX.unpack_from(begin)[1]
    return -(PREFIX.size + size) % _ALIGNMENT


def message_of(body: bytes | bytearray | memoryview) -> tuple[bool, memoryview]:
    """The only message of a unary request, and whether it is compressed."""
    if len(body) < PREFIX.size:
        raise InvalidRequest("request: no gRPC message")
    compressed, size = PREFIX.unpack_from(body)
    if size != len(body) - PREFIX.size:
        raise InvalidRequest("request: must be one gRPC message")
    return bool(compressed), memoryview(body)[PREFIX.size :]


def decompressed(encoding: bytes, message: memoryview) -> Iterator[bytes]:
    """The message in pieces of 1 MiB at most, so that a decompression bomb can be refused; raises ServingError."""
    if encoding in (b"", b"identity"):
        raise ServingError("request: a compressed message without grpc-encoding")
    if encoding not in _WINDOW_BITS:
        raise NotSupported(
            f"grpc-encoding: {encoding[:100].decode('latin-1')!r} is not supported; send gzip or deflate"
        )
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        for start in range(0, len(message), _COMPRESSED_PIECE):
            rest: bytes | memoryview = message[start : start + _COMPRESSED_PIECE]
            while rest and not unpacker.eof:
                yield unpacker.decompress(rest, _PIECE)
                rest = unpacker.unconsumed_tail
            if rest or unpacker.unused_data:
                raise InvalidRequest("request: more than one compressed message")
        while not unpacker.eof and (piece := unpacker.decompress(b"", _PIECE)):
            yield piece
    except zlib.error:
        raise InvalidRequest(f"request: its message is not {encoding.decode()}") from None
    if not unpacker.eof:
        raise InvalidRequest("request: its compressed message is not whole")
