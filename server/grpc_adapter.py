"""KServe v2 over gRPC: translates `inference.GRPCInferenceService` to the data plane and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from server import engine, metric_names, tensors
from server.engine import Answer
from server.errors import InvalidRequest, ServingError, StartError
from server.plane import EXTENSIONS, PLATFORM, SERVER_NAME, InputTensor, Plane, ServedModel, refuse_unsupported

MAX_MESSAGE_BYTES: Final = 1 << 30  # as OVMS

Handler = Callable[[bytes], Awaitable[bytes]]
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}
_SERVICE: Final = "inference.GRPCInferenceService"


def build(plane: Plane, address: str, max_message_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """The gRPC server, bound to `address` (host:port) but not started; raises StartError where the port is busy."""
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.so_reuseport", 0),  # two servers on one port must not share it in silence
        )
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, _handlers(Servicer(plane))),))
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise StartError(f"--port: {address} cannot be bound; another program may use it: choose a free port") from None
    return server


class Servicer:
    """The methods of the service, from message to message; errors are ServingErrors."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def ServerLive(self, request: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._plane.ready)

    async def ModelReady(self, request: Any) -> Any:
        self._plane.model(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._plane.ready)

    async def ServerMetadata(self, request: Any) -> Any:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=engine.version(), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any) -> Any:
        model = self._plane.model(request.name, request.version)
        response = pb.ModelMetadataResponse(name=model.name, versions=[model.version], platform=PLATFORM)
        for field, specs in ((response.inputs, model.engine.inputs), (response.outputs, model.engine.outputs)):
            for spec in specs:
                field.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def model_infer(self, message: bytes) -> bytes:
        """ModelInfer, from and to serialised messages: so a broken one is counted, and both belong to its time."""
        with self._plane.call(metric_names.GRPC) as call:
            request = _parse(pb.ModelInferRequest, message)
            model = call.model(request.model_name, request.model_version)
            answer = await model.infer(inputs_of(request), outputs_of(request))
            return encode(model, request.id, answer)


def _handlers(servicer: Servicer) -> dict[str, Any]:
    """gRPC's handlers by method name. All take bytes: the generated ones answer a broken message with UNKNOWN."""
    methods = (servicer.ServerLive, servicer.ServerReady, servicer.ModelReady, servicer.ServerMetadata)
    handlers = {
        method.__name__: _from_bytes(method, getattr(pb, f"{method.__name__}Request"))
        for method in (*methods, servicer.ModelMetadata)
    }
    handlers["ModelInfer"] = servicer.model_infer
    return {name: grpc.unary_unary_rpc_method_handler(_with_status(handler)) for name, handler in handlers.items()}


def _from_bytes(method: Callable[[Any], Awaitable[Any]], request_type: Any) -> Handler:
    async def handle(message: bytes) -> bytes:
        response: bytes = (await method(_parse(request_type, message))).SerializeToString()
        return response

    return handle


def _with_status(handler: Handler) -> Callable[[bytes, Any], Awaitable[bytes]]:
    """The handler as gRPC calls it: a ServingError becomes its status."""

    async def handle(message: bytes, context: Any) -> bytes:
        try:
            return await handler(message)
        except ServingError as error:
            await context.abort(_STATUS[error.grpc_status], str(error))
            raise  # not reached: abort raises

    return handle


def encode(model: ServedModel, request_id: str, answer: Answer) -> bytes:
    """The ModelInferResponse; tensors go out raw."""
    response = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=request_id)
    for output in answer.outputs:
        response.outputs.add(name=output.spec.name, datatype=output.spec.datatype, shape=output.shape)
        response.raw_output_contents.append(output.raw)
    serialised: bytes = response.SerializeToString()
    return serialised


def _parse(message_type: Any, message: bytes) -> Any:
    try:
        return message_type.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"message: no {message_type.DESCRIPTOR.name}") from None


def inputs_of(request: Any) -> list[InputTensor]:
    """The inputs of a ModelInferRequest, raw or typed; raises InvalidRequest where it mixes both."""
    for tensor in request.inputs:
        refuse_unsupported(f"input {tensor.name[:100]}", tensor.parameters)
    raw = request.raw_input_contents
    if not raw:
        return [_typed(tensor) for tensor in request.inputs]
    if len(raw) != len(request.inputs):
        raise InvalidRequest(f"raw_input_contents: {len(raw)} entries for {len(request.inputs)} inputs")
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise InvalidRequest(f"input {tensor.name[:100]}: has contents beside raw_input_contents; send one of them")
    return [
        InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data, tensors.from_raw)
        for tensor, data in zip(request.inputs, raw, strict=True)
    ]


def outputs_of(request: Any) -> list[str]:
    """The names of the outputs that a ModelInferRequest asks for; none means all."""
    for tensor in request.outputs:
        refuse_unsupported(f"output {tensor.name[:100]}", tensor.parameters)
    return [tensor.name for tensor in request.outputs]


def _typed(tensor: Any) -> InputTensor:
    datatype = tensors.DATATYPES.get(tensor.datatype)
    values = getattr(tensor.contents, datatype.contents) if datatype and datatype.contents else ()
    return InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), values, tensors.from_values)
