"""Where the CPU of a request goes: by library as `perf` says, and our protocol code by a loop without a socket.

perf samples the server's clock while h2load keeps it busy; what is none of LIBRARIES' is called Python, which holds the
interpreter and the C library. Of that, the protocol code (HTTP/1.1 or HTTP/2 with gRPC's framing, in Python) is told by
giving the connection the same bytes again and again: its transport throws the answers away, its handler has them ready,
and what an empty turn of the loop takes is taken off. py-spy was tried and is not used: its stops fall into system
calls (three times their share by perf), and without stops it misses most of what is no long call.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import hpack
import uvloop

from benchmarks import h2load
from benchmarks.parties import Running
from loadproof_server.connections import http2
from loadproof_server.connections.grpc import GrpcConnection
from loadproof_server.connections.http1 import Http1Connection
from loadproof_server.connections.http1_request import JSON_TYPE, Reply, Request
from loadproof_server.connections.listener import ListenerState

SECONDS: Final = 4
CONNECTIONS: Final = 8  # the server is always busy
TURNS: Final = 5000
LIBRARIES: Final = {
    "kernel": r"\[kernel|\[vdso\]|\[guest",
    "OpenVINO": r"openvino|libtbb|libstdc\+\+|libgcc_s|multiarray",  # numpy's views of tensors are made for it
    "protobuf": r"_message\.",
    "event loop": r"^loop\.|_asyncio",
    "HTTP parser": r"^parser\.|^url_parser\.",
    "JSON": r"^_json\.",
}
_PATH: Final = b"/inference.GRPCInferenceService/ModelInfer"
_ANSWER: Final = bytes(64)


def take(
    server: Running, protocol: str, load: tuple[str, list[str], Path], requests_per_s: float
) -> dict[str, Any] | None:
    """Microseconds a request by where they go; None, and a word on standard error, where there is no perf to ask."""
    if shutil.which("perf") is None:
        print("perf is missing (Debian's linux-perf): no profile", file=sys.stderr)
        return None
    url, flags, body = load
    number = int(requests_per_s * SECONDS)
    with tempfile.NamedTemporaryFile() as samples:
        command = [
            "perf",
            "record",
            "-q",
            "-o",
            samples.name,
            "-e",
            "cpu-clock",
            "-F",
            "2000",
            "-p",
            str(server.process.pid),
        ]
        before_s = server.cpu_s()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as perf:
            h2load.run(url, flags, body, CONNECTIONS, number)
            perf.terminate()
        cpu_us = (server.cpu_s() - before_s) / number * 1e6
        command = ["perf", "report", "-i", samples.name, "--no-children", "--sort", "dso", "--stdio"]
        shares = by_library(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    spent = {place: share * cpu_us for place, share in shares.items()}
    ours_us = min(uvloop.run(protocol_us(protocol, body.read_bytes(), flags)), spent["Python"])
    spent["Python"] -= ours_us
    spent["protocol code"] = ours_us
    rounded = {place: round(spent_us, 1) for place, spent_us in sorted(spent.items(), key=lambda each: -each[1])}
    return {"protocol": protocol, "connections": CONNECTIONS, "cpu_us": round(cpu_us, 1), "spent_us": rounded}


def by_library(report: str) -> dict[str, float]:
    """Shares of all samples by the names of LIBRARIES, and Python's."""
    shares: dict[str, float] = {}
    for percent, library in re.findall(r"^\s+([\d.]+)%\s+(\S+)", report, re.MULTILINE):
        place = next((name for name, pattern in LIBRARIES.items() if re.search(pattern, library)), "Python")
        shares[place] = shares.get(place, 0.0) + float(percent) / 100
    return shares


def table(profiles: Sequence[dict[str, Any]]) -> str:
    lines = []
    for each in profiles:
        spent = ", ".join(f"{place} {spent_us:.1f}" for place, spent_us in each["spent_us"].items())
        lines.append(f"null, {each['protocol']}: {each['cpu_us']:.1f} us of CPU a request: {spent}")
    return "\n".join(lines)


# ---- protocol code alone ----


class Nowhere:
    """A transport that throws away what is written, and has room for all of it."""

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


async def protocol_us(protocol: str, body: bytes, flags: list[str]) -> float:
    """CPU of one request's bytes on their way through the connection, and of its answer's."""
    connection: Any
    if protocol == "gRPC":
        connection, begin, requests = GrpcConnection(ListenerState(), {_PATH: _answer}), *_frames(body)
    else:
        lines = ("POST /v2/models/null/infer HTTP/1.1", "Host: localhost", flags[-1], f"Content-Length: {len(body)}")
        head = "\r\n".join((*lines, "", ""))
        connection, begin, requests = Http1Connection(ListenerState(), _reply), b"", [head.encode() + body] * TURNS
    connection.connection_made(Nowhere())
    _arrive(connection, begin)
    begin_s = time.process_time()
    for data in requests:
        _arrive(connection, data)
        await asyncio.sleep(0)  # the task that answers has its turn
    between_s = time.process_time()
    for _ in requests:
        await asyncio.sleep(0)
    return (2 * between_s - begin_s - time.process_time()) / TURNS * 1e6


def _arrive(connection: Any, data: bytes) -> None:
    """As asyncio hands over what it has read."""
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


def _frames(body: bytes) -> tuple[bytes, list[bytes]]:
    """What a client sends at first, and then for each request."""
    encoder = hpack.Encoder()
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", _PATH), (b":authority", b"localhost")]
    headers += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"user-agent", b"h2load")]
    all_windows = http2.frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", http2.MAX_WINDOW - http2.DEFAULT_WINDOW))
    return http2.PREFACE + http2.settings({}) + all_windows, [
        http2.frame(http2.HEADERS, http2.END_HEADERS, number, encoder.encode(headers))
        + http2.frame(http2.DATA, http2.END_STREAM, number, body)
        for number in range(1, 2 * TURNS, 2)
    ]


async def _answer(message: memoryview) -> Sequence[bytes]:
    return (_ANSWER,)


async def _reply(request: Request) -> Reply:
    await request.body()
    return 200, [JSON_TYPE], [_ANSWER]
