"""A gRPC client through tritonclient, with a channel and TCP connection of its own, under gevent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import grpc.experimental.gevent
from google.protobuf.message import DecodeError
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2
from tritonclient.utils import InferenceServerException

from loadproof_clients.apis import APIS
from loadproof_clients.kserve.messages import read_response
from loadproof_clients.records import CONNECTION, GRPC_CODES, ID_HEADER, TIMEOUT, TOO_LARGE, UNREADABLE
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import Tensor, Tensors, to_array
from loadproof_clients.transport import Done, Exchange, Failure, reading
from loadproof_clients.wire.connection import too_large

grpc.experimental.gevent.init_gevent()  # has to happen before the first channel

_CHANNEL: Final = [
    ("grpc.use_local_subchannel_pool", 1),  # else identical channels of one process share one connection
    ("grpc.max_send_message_length", 2**30),
    ("grpc.enable_retries", 0),  # a request that gRPC repeats by itself would be one record and two balancer lines
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # what an attempt to connect is given, in fact
    ("grpc.max_reconnect_backoff_ms", 1000),
    # No compression is offered or undone: gRPC unpacks a message of any size before it looks how large it is.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.per_message_decompression", 0),
]
RESETS: Final = ("UNAVAILABLE", "INTERNAL", "CANCELLED", "UNKNOWN")  # what gRPC makes of a connection or stream cut off


def channel(answer_bytes_max: int) -> list[tuple[str, int]]:
    """The arguments of a channel that takes no larger answer."""
    return [*_CHANNEL, ("grpc.max_receive_message_length", answer_bytes_max)]


def _parse(message: bytes) -> Any:
    """A broken answer is returned as its error: gRPC's future never reports a deserialiser that raises."""
    try:
        return service_pb2.ModelInferResponse.FromString(message)
    except DecodeError as error:
        return error


class TritonGrpc:
    """One client (transport.Client) over gRPC."""

    @classmethod
    def encode(cls, spec: LoadSpec, payload: Tensors) -> list[Any]:
        """tritonclient's inputs; they hold the bytes to send."""
        return [InferInput(t.name, list(t.shape), t.datatype).set_data_from_numpy(to_array(t)) for t in payload]

    def __init__(self, spec: LoadSpec, encoded: Sequence[list[Any]]) -> None:
        self._inputs = encoded
        self._model = spec.model
        self._timeout_s = spec.load.timeout_s
        self._bytes_max = spec.load.answer_bytes_max
        self._client = InferenceServerClient(spec.url, channel_args=channel(spec.load.answer_bytes_max))
        # tritonclient's own stub, but for how an answer is parsed: see _parse
        self._client._client_stub.ModelInfer = self._client._channel.unary_unary(
            APIS["kserve"].carriers["grpc"].inference_path,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=_parse,
        )
        self._aborted = False

    def connect(self, timeout_s: float) -> None:
        try:
            ready = self._client.is_server_ready(client_timeout=timeout_s)
        except InferenceServerException as error:
            raise self._failure(error) from None
        if not ready:
            raise Failure(GRPC_CODES["UNAVAILABLE"], "the server says that it is not ready")

    def infer(self, payload: int, request_id: str) -> Exchange:
        exchange = Exchange(time.monotonic_ns())
        try:
            result = self._client.infer(
                self._model,
                self._inputs[payload],
                headers={ID_HEADER: request_id},
                client_timeout=self._timeout_s,
            )
        except InferenceServerException as error:
            return self._fail(exchange, time.monotonic_ns(), error)
        return exchange.ended(time.monotonic_ns(), result)

    def start(self, payload: int, request_id: str, done: Done) -> None:
        """The answer is stamped in the channel's own greenlet. A greenlet for each request would cost as much CPU and a
        native thread of gevent's pool each, of which there are at most 1024.
        """
        exchange = Exchange(time.monotonic_ns())

        def ended(result: Any, error: Any) -> None:
            received_ns = time.monotonic_ns()
            if error is None:
                done(exchange.ended(received_ns, result))
            else:
                done(self._fail(exchange, received_ns, error))

        self._client.async_infer(
            self._model,
            self._inputs[payload],
            ended,
            headers={ID_HEADER: request_id},
            client_timeout=self._timeout_s,
        )

    @property
    def connections(self) -> int:
        return 1

    @property
    def held(self) -> int:
        return 0

    def _fail(self, exchange: Exchange, received_ns: int, error: Any) -> Exchange:
        # the server knows the deadline too, and its DEADLINE_EXCEEDED may be the first to arrive
        is_overdue = received_ns - exchange.sent_ns > 0.99e9 * self._timeout_s
        failure = self._failure(error, is_overdue=is_overdue)
        return exchange.failed(received_ns, failure.status, str(failure))

    def _failure(self, error: Any, *, is_overdue: bool = True) -> Failure:
        """A status from the trailers keeps its name; what gRPC made up here gets ours (by grpcio 1.85's texts)."""
        name = str(error.status()).removeprefix("StatusCode.")
        local = "Stream removed (" in str(error.debug_details())
        message = f"{name}: {error.message()}"
        if self._aborted or (name == "DEADLINE_EXCEEDED" and (local or is_overdue)):
            return Failure(TIMEOUT, message)
        if name == "RESOURCE_EXHAUSTED" and "eceived message larger than max" in message:
            return Failure(TOO_LARGE, too_large(self._bytes_max))
        if name == "INTERNAL" and ("deserializing response" in message or "Compression algorithm" in message):
            return Failure(UNREADABLE, message)
        if (local and name in RESETS) or (name == "UNAVAILABLE" and "failed to connect" in message):
            return Failure(CONNECTION, message)
        return Failure(GRPC_CODES.get(name, GRPC_CODES["UNKNOWN"]), message)

    def content(self, answer: Any) -> Any:
        return None

    def tensors(self, answer: Any) -> list[Tensor]:
        response = answer.get_response()
        if isinstance(response, DecodeError):
            raise Failure(UNREADABLE, str(response))
        with reading():
            return read_response(response)

    def abort(self) -> None:
        self._aborted = True
        self._client.close()  # the call in flight ends CANCELLED

    def close(self) -> None:
        """Has to be called: a channel that is left to its destructor under gevent hangs the process at exit."""
        self._client.close()
