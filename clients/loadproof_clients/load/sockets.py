"""Locust's sockets, out of which nothing comes that master or worker did not send: the rest is dropped and counted.

Locust makes its sockets itself and has no hook for it: `install_master` and `install_worker` put these in the place of
its own before it does. Whatever arrives, neither raises because of it.
"""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace
from typing import Any, Final

import locust.runners
import msgpack
import zmq.green as zmq
from gevent.event import Event
from locust.exception import RPCError, RPCSendError
from locust.rpc.protocol import Message
from locust.rpc.zmqrpc import BaseSocket
from locust.util.exception_handler import retry

from loadproof_clients.load import seal, shapes
from loadproof_clients.load.authentication import Authenticator, Dropped, Excluded
from loadproof_clients.load.seal import TO_MASTER, TO_WORKER, Forged, Seal

QUEUED_MAX: Final = 16  # messages of one peer that wait to be read: bounds the memory that a flood takes
GREETING_MS_MAX: Final = 10_000  # a connection that does not speak ZeroMQ ends after this
TELL_S_MAX: Final = 3.0  # Locust's worker tries again for five minutes


class TokenRefused(Exception):
    """The master has another token than this worker."""


class MasterSocket(BaseSocket):  # type: ignore[misc]
    """In the place of locust.rpc.zmqrpc.Server."""

    def __init__(self, authenticator: Authenticator, host: str, port: int) -> None:
        self._authenticator = authenticator
        family, address = _resolved(host, port)
        super().__init__(zmq.ROUTER, family == socket.AF_INET)
        _bound(self.socket, seal.TO_MASTER_BYTES_MAX)
        try:
            self.port = port or self.socket.bind_to_random_port(_url(address))
            if port:
                self.socket.bind(f"{_url(address)}:{port}")
        except zmq.ZMQError as error:
            raise RPCError(f"Socket bind failure: {error}") from None

    @retry()  # type: ignore[untyped-decorator]
    def send_to_client(self, msg: Any) -> None:
        """One message to the worker that it names."""
        identity = msg.node_id.encode()
        self._send(identity, self._authenticator.sealed(identity, msg.serialize()))

    def _send(self, identity: bytes, frame: bytes) -> None:
        try:
            self.socket.send_multipart([identity, frame])
        except zmq.ZMQError as error:
            raise RPCSendError("ZMQ sent failure") from error

    def recv_from_client(self) -> tuple[str, Any]:
        """The next message of a worker, and its identity."""
        while True:
            try:
                frames = self.socket.recv_multipart()
            except zmq.ZMQError as error:
                raise RPCError("ZMQ network broken") from error
            if (found := self._taken(frames)) is not None:
                return found

    def _taken(self, frames: list[bytes]) -> tuple[str, Any] | None:
        authenticator = self._authenticator
        try:
            identity, frame = frames
            if frame[:1] == seal.ASK:
                answer, has_token = authenticator.answer(identity, frame)
                with contextlib.suppress(RPCSendError):  # who asked has gone, or does not listen
                    self._send(identity, answer)
                if not has_token:
                    authenticator.dropped.stranger()
                return None
            body = authenticator.verified(identity, frame)
        except (Forged, ValueError):  # the latter: another number of frames
            authenticator.dropped.stranger()
            return None
        except Excluded:
            authenticator.dropped.pause()
            return None
        try:
            name = identity.decode()
            return name, _unpacked(body, shapes.FROM_WORKER, name)
        except ValueError as error:
            authenticator.dropped.bad(str(error))
            return None


class WorkerSocket(BaseSocket):  # type: ignore[misc]
    """In the place of locust.rpc.zmqrpc.Client.

    Until the master's first message comes it asks for the master's nonce before it sends: the one that answered may
    have been that of the run before, at its end.
    """

    def __init__(self, token: bytes, host: str, port: int, identity: str) -> None:
        super().__init__(zmq.DEALER, ipv4_only=False)
        _bound(self.socket, seal.TO_WORKER_BYTES_MAX)
        self._token, self._name, self._asked = token, identity.encode(), seal.fresh_nonce()
        self._dropped = Dropped()
        self._told, self._heard, self._refused = Event(), False, False
        self._seals: tuple[Seal, Seal] | None = None  # in, out
        self._nonce = b""
        self.socket.setsockopt(zmq.IDENTITY, self._name)
        self.socket.connect(f"{_url(host)}:{port}")

    def send(self, msg: Any) -> None:
        """One message to the master; none where no master answers. Raises TokenRefused."""
        if not self._heard:
            self._told.clear()
            self.socket.send(seal.ask(self._token, self._name, self._asked))
            self._told.wait(TELL_S_MAX)
        if self._refused:
            raise TokenRefused
        if self._seals is not None:
            self._send(msg)

    @retry()  # type: ignore[untyped-decorator]
    def _send(self, msg: Any) -> None:
        assert self._seals is not None
        try:
            self.socket.send(self._seals[1].seal(msg.serialize()), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise RPCSendError("ZMQ sent failure") from error

    def recv(self) -> Any:
        """The next message of the master."""
        while True:
            try:
                frame = self.socket.recv()
            except zmq.ZMQError as error:
                raise RPCError("ZMQ network broken") from error
            try:
                if frame[:1] == seal.TELL:
                    self._on_tell(frame)
                elif self._seals is not None:
                    message = _unpacked(self._seals[0].open(frame), shapes.FROM_MASTER, None)
                    self._heard = True
                    return message
            except Forged:
                self._dropped.stranger()
            except ValueError as error:
                self._dropped.bad(str(error))

    def _on_tell(self, frame: bytes) -> None:
        if self._heard:
            return
        try:
            nonce = seal.read_tell(self._token, self._name, self._asked, frame)
        except Forged:
            self._refused = True
        else:
            self._refused = False
            if nonce != self._nonce:
                self._nonce = nonce
                incoming, outgoing = (Seal(self._token, nonce, self._name, way) for way in (TO_WORKER, TO_MASTER))
                self._seals = incoming, outgoing
        self._told.set()


def install_master(authenticator: Authenticator) -> None:
    """The master that Locust makes next uses this authenticator."""
    locust.runners.rpc = SimpleNamespace(Server=lambda host, port: MasterSocket(authenticator, host, port))


def install_worker(token: bytes) -> None:
    """The worker that Locust makes next has this token."""
    locust.runners.rpc = SimpleNamespace(Client=lambda host, port, identity: WorkerSocket(token, host, port, identity))


def outlast(runner: Any, dropped: Dropped) -> None:
    """From now on a message whose handler raises is dropped, where it would end Locust's listener."""
    handle = runner.handle_message

    def guarded(client_id: str, msg: Any) -> None:
        try:
            handle(client_id, msg)
        except Exception as error:
            dropped.bad(f"{msg.type}: {error!r}"[:200])

    runner.handle_message = guarded


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """Family and numeric address of a name of this machine."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise RPCError(f"Socket bind failure: {host}: {error.strerror}") from None
    return family, str(address[0])


def _url(host: str) -> str:
    return f"tcp://[{host}]" if ":" in host else f"tcp://{host}"


def _bound(opened: Any, bytes_max: int) -> None:
    opened.setsockopt(zmq.MAXMSGSIZE, bytes_max)
    opened.setsockopt(zmq.RCVHWM, QUEUED_MAX)
    opened.setsockopt(zmq.HANDSHAKE_IVL, GREETING_MS_MAX)


def _unpacked(body: bytes, known: shapes.Known, sender: str | None) -> Any:
    """A message of a known kind and shape, from `sender` where that is given; ValueError says what it is else."""
    try:
        kind, data, identity = msgpack.unpackb(body, raw=False, strict_map_key=False)
    except Exception:
        raise ValueError("no message at all") from None
    if not isinstance(kind, str) or (sender is not None and identity != sender):
        raise ValueError("one in another's name")
    return Message(kind, shapes.checked(known, kind, data), identity)
