"""KServe v2 over gRPC: translates `inference.GRPCInferenceService` to the data plane and back.

The part of a message that is not raw tensors has a smaller limit than the message (`MAX_STRUCTURE_BYTES`): protobuf may
create an object for each two bytes of it, on the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from loadproof_server.connections.grpc_stream import Handler
from loadproof_server.dataplane import metric_names
from loadproof_server.dataplane.inputs import (
    MAX_TENSORS,
    InputTensor,
    refuse_sequence,
    refuse_too_many,
    refuse_unsupported,
)
from loadproof_server.dataplane.model import ServedModel
from loadproof_server.dataplane.plane import EXTENSIONS, PLATFORM, SERVER_NAME, Plane
from loadproof_server.engine.compiling import openvino_version
from loadproof_server.engine.specs import Answer
from loadproof_server.errors import InvalidRequest, TooLarge
from loadproof_server.kserve import triton
from loadproof_server.kserve.all_workers import AllWorkers
from loadproof_server.tensors import codec, datatypes
from loadproof_server.tensors.codec import Buffer

MAX_STRUCTURE_BYTES: Final = 1 << 24
_LARGE_BYTES: Final = 1 << 16  # a smaller message is copied faster than cut, and takes no long time to parse
_WITH_LENGTH: Final = 2  # protobuf's wire type of bytes, strings and messages
_RAW_OUTPUT: Final = bytes([pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | _WITH_LENGTH])

_SERVICE: Final = "/inference.GRPCInferenceService/"


class Servicer:
    """The methods of the service, from message to message; errors are ServingErrors."""

    def __init__(self, plane: Plane, workers: AllWorkers) -> None:
        self._plane, self._workers = plane, workers

    async def ServerLive(self, request: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._plane.ready)

    async def ModelReady(self, request: Any) -> Any:
        with self._plane.lookup(metric_names.GRPC, metric_names.MODEL_READY) as lookup:
            lookup.model(request.name, request.version)
            return pb.ModelReadyResponse(ready=self._plane.ready)

    async def ServerMetadata(self, request: Any) -> Any:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=openvino_version(), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any) -> Any:
        with self._plane.lookup(metric_names.GRPC, metric_names.MODEL_METADATA) as lookup:
            model = lookup.model(request.name, request.version)
        versions = self._plane.versions(model.name)
        response = pb.ModelMetadataResponse(name=model.name, versions=versions, platform=PLATFORM)
        for field, specs in ((response.inputs, model.engine.inputs), (response.outputs, model.engine.outputs)):
            for spec in specs:
                field.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def ModelConfig(self, request: Any) -> Any:
        model = self._plane.model(request.name, request.version)
        return json_format.ParseDict({"config": triton.config(model)}, pb.ModelConfigResponse())

    async def ModelStatistics(self, request: Any) -> Any:
        found = await self._workers.statistics(request.name, request.version)
        return json_format.ParseDict({"model_stats": found}, pb.ModelStatisticsResponse())

    async def RepositoryIndex(self, request: Any) -> Any:
        return json_format.ParseDict({"models": triton.index(self._plane)}, pb.RepositoryIndexResponse())

    async def model_infer(self, message: memoryview) -> Sequence[bytes]:
        """ModelInfer, from and to serialised messages: so broken ones are counted, and parsing is timed."""
        with self._plane.call(metric_names.GRPC) as call:
            request, raw = parse(message)
            model = call.model(request.model_name, request.model_version)
            answer = await model.infer(inputs_of(request, raw), outputs_of(request))
            return encode(model, request.id, answer)


def handlers(plane: Plane, workers: AllWorkers | None = None) -> dict[bytes, Handler]:
    """The service's methods by their paths."""
    servicer = Servicer(plane, workers or AllWorkers(plane))
    methods = (
        *(servicer.ServerLive, servicer.ServerReady, servicer.ModelReady, servicer.ServerMetadata),
        *(servicer.ModelMetadata, servicer.ModelConfig, servicer.ModelStatistics, servicer.RepositoryIndex),
    )
    found = {method.__name__: _from_bytes(method, getattr(pb, f"{method.__name__}Request")) for method in methods}
    found["ModelInfer"] = servicer.model_infer
    return {(_SERVICE + name).encode(): handler for name, handler in found.items()}


def _from_bytes(method: Callable[[Any], Awaitable[Any]], request_type: Any) -> Handler:
    async def handle(message: memoryview) -> Sequence[bytes]:
        return ((await method(_parse(request_type, bytes(message)))).SerializeToString(),)

    return handle


def encode(model: ServedModel, request_id: str, answer: Answer) -> Sequence[bytes]:
    """The parts of the ModelInferResponse; tensors go out raw, and are not copied."""
    response = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=request_id)
    parts = [b""]
    for output in answer.outputs:
        response.outputs.add(name=output.spec.name, datatype=output.spec.datatype, shape=output.shape)
        parts += (_RAW_OUTPUT, _to_varint(len(output.raw)), output.raw)
    parts[0] = response.SerializeToString()
    return parts


def _to_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _parse(message_type: Any, message: bytes) -> Any:
    try:
        return message_type.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"message: no {message_type.DESCRIPTOR.name}") from None


def parse(message: memoryview) -> tuple[Any, Sequence[Buffer]]:
    """The ModelInferRequest and its raw tensors, which are not copied out of a large message.

    Raises TooLarge where the message without them is too large, InvalidRequest where it is broken.
    """
    if len(message) <= _LARGE_BYTES:
        request = _parse(pb.ModelInferRequest, bytes(message))
        return request, request.raw_input_contents
    rest, raws = _cut(message)
    if len(rest) > MAX_STRUCTURE_BYTES:
        raise TooLarge(
            f"message: more than {MAX_STRUCTURE_BYTES} bytes beside raw tensors; send tensors in raw_input_contents"
        )
    request = _parse(pb.ModelInferRequest, rest)
    return request, [*raws, *request.raw_input_contents]


def _cut(view: memoryview) -> tuple[bytes, list[memoryview]]:
    """The message without its raw tensors, and the raw tensors; a field without a length ends the search."""
    rest: list[memoryview] = []
    raws: list[memoryview] = []
    position = begin = 0
    while position < len(view) and len(rest) + len(raws) < 4 * MAX_TENSORS:
        key, start = _varint(view, position)
        size, start = _varint(view, start)
        end = start + size
        if key & 7 != _WITH_LENGTH or end > len(view):
            break
        if key >> 3 == pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER:
            rest.append(view[begin:position])
            raws.append(view[start:end])
            begin = end
        position = end
    return b"".join((*rest, view[begin:])), raws


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A varint and where it ends; the value of a broken one is arbitrary."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            break
    return value, position


def inputs_of(request: Any, raw: Sequence[Buffer]) -> list[InputTensor]:
    """The inputs of a ModelInferRequest, raw or typed; raises InvalidRequest where it mixes both."""
    refuse_sequence(request.parameters)
    refuse_too_many("inputs", len(request.inputs))
    for tensor in request.inputs:
        refuse_unsupported(f"input {tensor.name[:100]}", tensor.parameters)
    if not raw:
        return [_typed(tensor) for tensor in request.inputs]
    if len(raw) != len(request.inputs):
        raise InvalidRequest(f"raw_input_contents: {len(raw)} entries for {len(request.inputs)} inputs")
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise InvalidRequest(f"input {tensor.name[:100]}: has contents beside raw_input_contents; send one of them")
    return [
        InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data, codec.from_raw)
        for tensor, data in zip(request.inputs, raw, strict=True)
    ]


def outputs_of(request: Any) -> list[str]:
    """The names of the outputs that a ModelInferRequest asks for; none means all."""
    refuse_too_many("outputs", len(request.outputs))
    for tensor in request.outputs:
        refuse_unsupported(f"output {tensor.name[:100]}", tensor.parameters)
    return [tensor.name for tensor in request.outputs]


def _typed(tensor: Any) -> InputTensor:
    datatype = datatypes.DATATYPES.get(tensor.datatype)
    values = getattr(tensor.contents, datatype.contents) if datatype and datatype.contents else ()
    return InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), values, codec.from_values)
