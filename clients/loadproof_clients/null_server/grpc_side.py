"""The null server's gRPC side: as much of HTTP/2 (RFC 9113) as it takes to answer each stream with the same frames.

Request headers are not decoded: the message shows whether it is an inference, which costs less than HPACK would.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from loadproof_clients.null_server import answers
from loadproof_clients.null_server.answers import Answers

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
FRAME_MAX: Final = 1 << 14  # the protocol's default: we announce no other
WINDOW: Final = 2**31 - 1
FIRST_WINDOW: Final = 65_535
REFILL: Final = 1 << 24


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class Answer:
    """The frames of one answer, around the stream's number."""

    def __init__(self, message: bytes) -> None:
        head = frame(HEADERS, END_HEADERS, 0, answers.HEADERS)
        body = frame(DATA, 0, 0, message)
        tail = frame(HEADERS, END_HEADERS | END_STREAM, 0, answers.TRAILERS)
        self.size = len(message)
        self._pieces = (head[:5], head[9:] + body[:5], body[9:] + tail[:5], tail[9:])

    def on(self, stream: bytes) -> bytes:
        return stream.join(self._pieces)


class GrpcSide(asyncio.Protocol):
    """One connection."""

    def __init__(self, answered: Answers) -> None:
        self._inference, self._about = Answer(answered.grpc_inference), Answer(answered.grpc_about)
        self._is_inference = answered.is_inference

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._in = bytearray()
        self._greeted = False
        self._kinds: dict[bytes, Answer] = {}  # of streams whose message is not whole yet
        self._window = FIRST_WINDOW  # what the client takes, over all streams; an answer fits any stream's own
        self._waiting: list[tuple[bytes, Answer]] = []
        self._taken = 0
        big = b"\0\3" + (100_000).to_bytes(4, "big") + b"\0\4" + WINDOW.to_bytes(4, "big")  # streams, their windows
        update = (WINDOW - FIRST_WINDOW).to_bytes(4, "big")
        transport.write(frame(SETTINGS, 0, 0, big) + frame(WINDOW_UPDATE, 0, 0, update))

    def data_received(self, data: bytes) -> None:
        self._in += data
        if not self._greeted:
            if len(self._in) < len(PREFACE):
                return
            if not self._in.startswith(PREFACE):
                self._transport.close()
                return
            del self._in[: len(PREFACE)]
            self._greeted = True
        self._frames()

    def _frames(self) -> None:
        buffer, at, end = bytes(self._in), 0, len(self._in)
        out: list[bytes] = []
        while at + 9 <= end:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if size > FRAME_MAX:
                self._transport.close()
                return
            after = at + 9 + size
            if after > end:
                break
            kind, flags, stream = buffer[at + 3], buffer[at + 4], buffer[at + 5 : at + 9]
            if kind == DATA:
                self._data(flags, stream, buffer[at + 9 : after], out)
            elif kind != HEADERS:
                self._control(kind, flags, stream, buffer[at + 9 : after], out)
            at = after
        del self._in[:at]
        if out:
            self._transport.write(b"".join(out))

    def _data(self, flags: int, stream: bytes, payload: bytes, out: list[bytes]) -> None:
        self._taken += len(payload)
        if self._taken > REFILL:
            out.append(frame(WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big")))
            self._taken = 0
        if flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        kind = self._kinds.pop(stream, None) or (self._inference if self._is_inference(payload) else self._about)
        if not flags & END_STREAM:
            self._kinds[stream] = kind
        elif self._window >= kind.size:
            self._window -= kind.size
            out.append(kind.on(stream))
        else:
            self._waiting.append((stream, kind))

    def _control(self, kind: int, flags: int, stream: bytes, payload: bytes, out: list[bytes]) -> None:
        if kind == SETTINGS and not flags & ACK:
            out.append(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            out.append(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self._kinds.pop(stream, None)
            self._waiting = [entry for entry in self._waiting if entry[0] != stream]
        elif kind == WINDOW_UPDATE and stream == b"\0\0\0\0":
            self._window += int.from_bytes(payload, "big")
            while self._waiting and self._window >= self._waiting[0][1].size:
                waiter, answer = self._waiting.pop(0)
                self._window -= answer.size
                out.append(answer.on(waiter))
