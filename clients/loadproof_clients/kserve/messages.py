"""KServe's protobuf messages from and to tensors, whatever carries them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tritonclient.grpc import service_pb2

from loadproof_clients.tensors.tensor import Tensor, Tensors, pack, read

CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def request(model: str, inputs: Tensors) -> Any:
    """A ModelInferRequest with the inputs in raw contents."""
    message = service_pb2.ModelInferRequest(model_name=model)
    for tensor in inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(bytes(tensor.raw))
    return message


def read_response(answer: Any) -> list[Tensor]:
    """The outputs of a ModelInferResponse, raw or typed; raises ValueError where contents and outputs don't fit."""
    raw = answer.raw_output_contents
    if len(raw) == len(answer.outputs):
        return [read(y.name, y.datatype, y.shape, r) for y, r in zip(answer.outputs, raw, strict=True)]
    if raw:
        raise ValueError(f"{len(answer.outputs)} outputs with {len(raw)} raw contents")
    return [read(y.name, y.datatype, y.shape, pack(y.datatype, _typed_contents(y))) for y in answer.outputs]


def _typed_contents(output: Any) -> Sequence[Any]:
    field = CONTENTS.get(output.datatype)
    return getattr(output.contents, field) if field else ()
