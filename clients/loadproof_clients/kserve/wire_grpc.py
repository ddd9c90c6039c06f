"""KServe over gRPC on the wire."""

from __future__ import annotations

from tritonclient.grpc import service_pb2

from loadproof_clients.apis import APIS
from loadproof_clients.kserve import messages
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import Tensors
from loadproof_clients.transport import reading
from loadproof_clients.wire.client import Message
from loadproof_clients.wire.connection import Answer
from loadproof_clients.wire.grpc import GrpcClient, frame, head, request, unframed


class WireGrpc(GrpcClient):
    """One client (transport.Client)."""

    @classmethod
    def encode(cls, spec: LoadSpec, payload: Tensors) -> Message:
        """A ModelInferRequest with raw contents."""
        path = APIS["kserve"].carriers["grpc"].inference_path
        return request(spec, path, messages.request(spec.model, payload).SerializeToString())

    def question(self) -> Message:
        return Message(head(self._url, "/inference.GRPCInferenceService/ServerReady"), frame(b""))

    def is_ready(self, answer: Answer) -> bool:
        with reading():
            return bool(service_pb2.ServerReadyResponse.FromString(unframed(answer.body)).ready)

    def tensors(self, answer: Answer) -> Tensors:
        with reading():
            return messages.read_response(service_pb2.ModelInferResponse.FromString(unframed(answer.body)))
