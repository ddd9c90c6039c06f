"""gRPC on the wire: messages with their five-byte prefix over HTTP/2, and the status from the trailers."""

from __future__ import annotations

import struct
from typing import Final
from urllib.parse import unquote

from loadproof_clients.records import GRPC_CODES, ID_HEADER, OK
from loadproof_clients.spec import LoadSpec
from loadproof_clients.transport import MESSAGE_MAX
from loadproof_clients.wire.client import Message, WireClient
from loadproof_clients.wire.connection import Answer
from loadproof_clients.wire.frames import literal, text
from loadproof_clients.wire.http2 import Http2

# What gRPC makes of an HTTP status that is not 200 (grpc/doc/http-grpc-status-mapping.md); UNKNOWN for any other.
OF_HTTP: Final = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


def request(spec: LoadSpec, path: str, message: bytes) -> Message:
    """A unary call with an id, as gRPC sends it; `message` is serialised already."""
    timeout = f"{max(1, round(spec.load.timeout_s * 1000))}m".encode()
    fields = head(spec.url, path) + literal(b"grpc-timeout", timeout) + b"\0" + text(ID_HEADER.encode())
    return Message(fields, frame(message))


def head(url: str, path: str) -> bytes:
    """The header block of every request; what HPACK's static table knows is an index of one byte."""
    return b"".join(
        (
            b"\x83\x86",  # :method: POST, :scheme: http
            b"\x04" + text(path.encode()),  # :path
            b"\x01" + text(url.encode()),  # :authority
            literal(b"content-type", b"application/grpc"),
            literal(b"te", b"trailers"),
        )
    )


def frame(message: bytes) -> bytes:
    """A message, not compressed, with its length before it."""
    return struct.pack(">BI", 0, len(message)) + message


class GrpcClient(WireClient):
    """One client over one HTTP/2 connection, which all its requests share."""

    engine = Http2

    def judge(self, answer: Answer) -> tuple[int, str]:
        code = answer.headers.get(b"grpc-status")
        if code == b"0":
            return OK, ""
        if code is not None and code.isdigit():
            message = unquote(answer.headers.get(b"grpc-message", b"").decode("latin-1"))
            known = len(code) <= 2 and int(code) in GRPC_CODES.values()
            return int(code) if known else GRPC_CODES["UNKNOWN"], message[:MESSAGE_MAX]
        status = answer.http_status
        return GRPC_CODES[OF_HTTP.get(status, "UNKNOWN")], f"HTTP status {status} without a gRPC status"


def unframed(body: bytes) -> bytes:
    """The one message of a unary answer; raises ValueError where the body is anything else."""
    if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise ValueError(f"{len(body)} bytes are not one message of gRPC, not compressed")
    return body[5:]
