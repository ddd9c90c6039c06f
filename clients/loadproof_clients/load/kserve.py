"""KServe's messages as the clients need them: a request's inputs as arrays, a response's outputs as raw tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from loadproof_clients.answers import Tensor, pack

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


def arrays(request: Any) -> list[tuple[str, list[int], str, Any]]:
    """The inputs of a ModelInferRequest with raw contents: (name, shape, datatype, numpy array) each."""
    found = []
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        shape = list(tensor.shape)
        if tensor.datatype == "BYTES":
            array = deserialize_bytes_tensor(raw)
        else:
            array = np.frombuffer(raw, triton_to_np_dtype(tensor.datatype))
        found.append((tensor.name, shape, tensor.datatype, array.reshape(shape)))
    return found


def read_response(answer: Any) -> list[Tensor]:
    """The outputs of a ModelInferResponse, raw or typed; raises ValueError where contents and outputs don't fit."""
    raw = answer.raw_output_contents
    if len(raw) == len(answer.outputs):
        return [Tensor(y.name, y.datatype, tuple(y.shape), r) for y, r in zip(answer.outputs, raw, strict=True)]
    if raw:
        raise ValueError(f"{len(answer.outputs)} outputs with {len(raw)} raw contents")
    return [Tensor(y.name, y.datatype, tuple(y.shape), pack(y.datatype, _typed_contents(y))) for y in answer.outputs]


def _typed_contents(output: Any) -> Sequence[Any]:
    field = CONTENTS.get(output.datatype)
    return getattr(output.contents, field) if field else ()
