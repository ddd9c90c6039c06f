"""The other end of a wire client's connections, which a test holds in its hand: plain sockets in threads."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gevent

from loadproof_clients.kserve.wire_grpc import WireGrpc
from loadproof_clients.kserve.wire_rest import WireRest
from loadproof_clients.spec import Load, LoadSpec, Measure
from loadproof_clients.wire import frames
from loadproof_clients.wire.client import Message, WireClient
from loadproof_clients.wire.connection import WireExchange
from loadproof_clients.wire.grpc import head

Script = Callable[[Any], None]


def spec(protocol: str, port: int = 1, timeout_s: float = 5, host: str = "127.0.0.1") -> LoadSpec:
    load = Load.model_validate({"protocol": protocol, "transport": "wire", "timeout_s": timeout_s})
    return LoadSpec(run="r", url=f"{host}:{port}", model="m", load=load, measure=Measure())


class Peer:
    """Accepts a connection for each of `scripts` and plays it; leaving the context waits for their end."""

    def __init__(self, side: type[RestPeer | GrpcPeer], scripts: Sequence[Script], host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._side, self._scripts = side, scripts
        self._problems: list[BaseException] = []
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._thread.join(10)
        self._listener.close()
        if kind is None:
            assert not self._thread.is_alive() and not self._problems, self._problems

    def _accept(self) -> None:
        players = []
        self._listener.settimeout(8)
        try:
            for script in self._scripts:
                sock, _ = self._listener.accept()
                self.connections += 1
                players.append(threading.Thread(target=self._play, args=(script, sock)))
                players[-1].start()
        except BaseException as problem:
            self._problems.append(problem)
        for player in players:
            player.join(8)

    def _play(self, script: Script, sock: socket.socket) -> None:
        sock.settimeout(8)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock:
            try:
                script(self._side(sock))
            except BaseException as problem:
                self._problems.append(problem)


class Reader:
    """What a socket brings, by size or by end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self._data = sock, bytearray()

    def read(self, size: int) -> bytes:
        """So many bytes; raises EOFError where the client closed before."""
        while len(self._data) < size:
            self._more()
        return self._cut(size)

    def until(self, end: bytes) -> bytes:
        while end not in self._data:
            self._more()
        return self._cut(self._data.index(end) + len(end))

    def _more(self) -> None:
        if not (data := self.sock.recv(1 << 20)):
            raise EOFError("the client closed")
        self._data += data

    def _cut(self, size: int) -> bytes:
        data = bytes(self._data[:size])
        del self._data[:size]
        return data


class RestPeer:
    """One connection of HTTP/1.1."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self._reader = sock, Reader(sock)

    def head(self) -> bytes:
        """The next request's head; b"" where the client closed."""
        try:
            return self._reader.until(b"\r\n\r\n")
        except (EOFError, ConnectionResetError):
            return b""

    def request(self) -> tuple[bytes, bytes]:
        head = self.head()
        sizes = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
        return head, self._reader.read(int(sizes[0]))

    def ready(self) -> None:
        """Answers the question that a client begins with."""
        assert self.head().startswith(b"GET /v2/health/ready HTTP/1.1\r\n")
        self.answer(b"{}")

    def answer(self, body: bytes, *lines: str) -> None:
        head = "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines, ""))
        self.sock.sendall(head.encode() + body)


class GrpcPeer:
    """One connection of HTTP/2."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self._reader = sock, Reader(sock)
        assert self._reader.read(len(frames.PREFACE)) == frames.PREFACE

    def settings(self, values: dict[int, int]) -> None:
        self.sock.sendall(frames.settings(values))

    def frame(self) -> tuple[int, int, int, bytes]:
        """Kind, flags, stream and payload of the next one."""
        high, low, kind, flags, stream = frames.HEAD.unpack(self._reader.read(frames.HEAD_BYTES))
        return kind, flags, stream, self._reader.read(high << 8 | low)

    def until(self, kind: int) -> tuple[int, int, bytes]:
        """Flags, stream and payload of the next frame of that kind; others are passed over."""
        while True:
            found, flags, stream, payload = self.frame()
            if found == kind:
                return flags, stream, payload

    def request(self) -> tuple[int, bytes]:
        """Stream and message of the next one."""
        _, stream, _ = self.until(frames.HEADERS)
        body, flags = b"", 0
        while not flags & frames.END_STREAM:
            flags, number, payload = self.until(frames.DATA)
            assert number == stream
            body += payload
        return stream, body

    def ready(self) -> None:
        """Answers the question that a client begins with: ServerReadyResponse with ready = true."""
        stream, _ = self.request()
        self.answer(stream, b"\0\0\0\0\2\x08\1")

    def answer(self, stream: int, body: bytes) -> None:
        self.sock.sendall(answer(stream, body))

    def ended(self) -> bool:
        """The client closes, whatever it says before."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self.frame()
        return True


OK_HEAD = b"\x88" + frames.literal(b"content-type", b"application/grpc")
OK_TRAILERS = frames.literal(b"grpc-status", b"0")


def answer(stream: int, body: bytes) -> bytes:
    """The frames of a good answer."""
    parts = [frames.frame(frames.HEADERS, frames.END_HEADERS, stream, OK_HEAD)]
    for at in range(0, len(body), frames.DEFAULT_FRAME):
        parts.append(frames.frame(frames.DATA, 0, stream, body[at : at + frames.DEFAULT_FRAME]))
    parts.append(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, OK_TRAILERS))
    return b"".join(parts)


@contextlib.contextmanager
def connected(client: WireClient) -> Iterator[WireClient]:
    with contextlib.closing(client):
        client.connect(5)
        yield client


def rest_client(port: int, body: bytes = b"question", timeout_s: float = 5) -> WireRest:
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nx-loadproof-id: "
    return WireRest(spec("rest", port, timeout_s), [Message(head.encode(), body)])


def grpc_client(port: int, body: bytes = b"\0\0\0\0\1?", timeout_s: float = 5) -> WireGrpc:
    fields = head("a", "/inference.GRPCInferenceService/ModelInfer") + b"\0" + frames.text(b"x-loadproof-id")
    return WireGrpc(spec("grpc", port, timeout_s), [Message(fields, body)])


class Told:
    """Collects the ends of requests that were started."""

    def __init__(self) -> None:
        self.ends: dict[str, WireExchange] = {}

    def start(self, client: WireClient, *names: str) -> None:
        for name in names:
            client.start(0, name, partial(self.ends.__setitem__, name))

    def wait(self, count: int) -> dict[str, int]:
        """The statuses, once so many have ended."""
        with gevent.Timeout(5):
            while len(self.ends) < count:
                gevent.sleep(0.001)
        return {name: end.status for name, end in self.ends.items()}
