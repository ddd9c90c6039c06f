"""What a client needs of a protocol: connect, send one prepared payload, and read the answer's tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from loadproof_clients.answers import Tensor
from loadproof_clients.spec import LoadSpec


class Failure(Exception):
    """A request that got no readable answer; `status` is that of loadproof_clients.records."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Answered(NamedTuple):
    """A request that got a whole answer: monotonic ns, stamped directly around the library's call, and what came."""

    sent_ns: int
    received_ns: int
    result: Any


class Transport(Protocol):
    """One client with a TCP connection of its own and, by `infer`, at most one request in flight."""

    def connect(self, timeout_s: float) -> None:
        """Connects and asks whether the server is ready, without an inference; raises Failure."""

    def infer(self, payload: int, request_id: str) -> Answered:
        """Sends payload number `payload` and waits for the whole answer, at most load.timeout_s; raises Failure."""

    def content(self, result: Any) -> Any:
        """What `tensors` reads of `result`: where two are equal, their tensors are. None: this library hides it."""

    def tensors(self, result: Any) -> list[Tensor]:
        """The outputs of the `result` that came; raises Failure where they cannot be read. Not timed."""

    def abort(self) -> None:
        """Gives up the request in flight, if any (its `infer` raises Failure(TIMEOUT)); nothing can be sent after."""

    def close(self) -> None:
        """Closes the connection."""


class Done(Protocol):
    """Is called when a request of the open loop ended: monotonic ns, its status, and what `tensors` reads if OK."""

    def __call__(self, sent_ns: int, received_ns: int, status: int, result: Any) -> None: ...


class OpenTransport(Transport, Protocol):
    """One client of the open loop: any number of requests in flight. `abort` gives up all of them."""

    @property
    def connections(self) -> int:
        """TCP connections now open."""

    @property
    def held(self) -> int:
        """Requests until now that waited for one of the server's streams; 0 where the library does not say."""

    def start(self, payload: int, request_id: str, done: Done) -> None:
        """Sends payload number `payload` and does not wait: `done` is called once, within load.timeout_s."""


def prepare(spec: LoadSpec, requests: Sequence[Any]) -> Callable[[], OpenTransport]:
    """Encodes the payloads (ModelInferRequest messages) once for all clients of the process; returns what makes one."""
    if spec.load.transport == "wire":
        return _prepare_wire(spec, requests)
    if spec.load.protocol == "grpc":
        from loadproof_clients.load.triton_grpc import GrpcTransport, encode

        inputs = [encode(request) for request in requests]
        return lambda: GrpcTransport(spec, inputs)
    from loadproof_clients.load.triton_rest import RestClient, encode_rest

    rest_inputs = [encode_rest(request) for request in requests]
    return lambda: RestClient(spec, rest_inputs)


def _prepare_wire(spec: LoadSpec, requests: Sequence[Any]) -> Callable[[], OpenTransport]:
    if spec.load.protocol == "grpc":
        from loadproof_clients.load.wire import grpc

        messages = [grpc.encode(spec, request) for request in requests]
        return lambda: grpc.GrpcWire(spec, messages)
    from loadproof_clients.load.wire import rest

    messages = [rest.encode(spec, request) for request in requests]
    return lambda: rest.RestWire(spec, messages)
