"""KServe's JSON over REST from and to tensors, with tritonclient's encoder; an answer is read by its rules alone."""

from __future__ import annotations

import json
from typing import Any

from tritonclient.http import InferInput

from loadproof_clients.tensors.tensor import Tensor, Tensors, pack, read, to_array


def binary_inputs(payload: Tensors) -> list[Any]:
    """tritonclient's inputs of one payload, as binary data."""
    return [
        InferInput(t.name, list(t.shape), t.datatype).set_data_from_numpy(to_array(t), binary_data=True)
        for t in payload
    ]


def read_body(body: bytes, json_size: bytes | None) -> list[Tensor]:
    """The outputs of an answer's body; `json_size` is the header that says where its JSON ends, if it came.

    Raises ValueError where the body is no answer of KServe's; RecursionError where its JSON is nested too deeply.
    """
    size = len(body) if json_size is None else _size(int(json_size) if json_size.isdigit() else None, len(body))
    return read_outputs(json.loads(body[:size]), memoryview(body)[size:])


def read_outputs(answer: Any, binary: Any) -> list[Tensor]:
    """The outputs of an answer's JSON and of the bytes after it; raises ValueError where they do not fit.

    Each field is of the type that KServe gives it: what came from a stranger is not converted into what was expected.
    """
    tensors, at = [], 0
    for output in _field(answer, "outputs", list):
        name, datatype = _field(output, "name", str), _field(output, "datatype", str)
        shape, parameters = _field(output, "shape", list), output.get("parameters", {})
        if not isinstance(parameters, dict):
            raise ValueError(f"parameters: not an object but {type(parameters).__name__}")
        if "binary_data_size" in parameters:
            size = _size(parameters["binary_data_size"], len(binary) - at)
            raw = bytes(binary[at : at + size])
            at += size
        else:
            raw = pack(datatype, _field(output, "data", list))
        tensors.append(read(name, datatype, shape, raw))
    if at != len(binary):
        raise ValueError(f"{len(binary) - at} bytes belong to no output")
    return tensors


def _field(table: Any, name: str, kind: type) -> Any:
    value = table.get(name) if isinstance(table, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{name}: not a {kind.__name__} but {type(value).__name__}")
    return value


def _size(value: Any, left: int) -> int:
    """A number of bytes of which so many are left."""
    if type(value) is not int or not 0 <= value <= left:
        raise ValueError(f"a size in bytes that is not from 0 to {left}")
    return value
