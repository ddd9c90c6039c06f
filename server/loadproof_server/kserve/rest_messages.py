"""The body of a REST inference request and of its answer: KServe v2's JSON, alone or followed by binary tensors.

Sources: the KServe v2 REST specification and its binary tensor data extension. NaN and infinities are written and read
as Python and RapidJSON do (`NaN`, `Infinity`), though JSON has no such numbers: binary data is exact everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from loadproof_server.connections.http1_request import JSON_TYPE, Reply
from loadproof_server.dataplane.inputs import InputTensor, refuse_sequence, refuse_too_many, refuse_unsupported
from loadproof_server.engine.specs import Answer
from loadproof_server.errors import InvalidRequest, TooLarge
from loadproof_server.tensors import codec, datatypes

MAX_JSON_BYTES: Final = 1 << 26
_BINARY_TYPE: Final = (b"content-type", b"application/octet-stream")
HEADER_LENGTH: Final = b"inference-header-content-length"
_MAX_RANK: Final = 64  # numpy's own limit


@dataclass(frozen=True, slots=True)
class InferMessage:
    """A parsed request: what to answer under which id, and which outputs go out binary."""

    request_id: str
    inputs: list[InputTensor]
    output_names: list[str]
    binary: Mapping[str, bool]
    binary_default: bool


def split(body: memoryview, header_length: bytes | None) -> tuple[bytes, memoryview]:
    """JSON and binary data of a request; `header_length` is the header Inference-Header-Content-Length.

    Raises InvalidRequest where that is wrong, TooLarge where the JSON is.
    """
    length = _json_length(body, header_length)
    if length > MAX_JSON_BYTES:
        raise TooLarge(f"body: JSON larger than {MAX_JSON_BYTES} bytes; send tensors as binary data")
    return bytes(body[:length]), body[length:]


def parse(text: bytes, binary_bytes: int, *, has_header: bool) -> InferMessage:
    """The request, with a slice of the binary data in place of each binary tensor. Raises InvalidRequest."""
    content = _object(_load(text), "body")
    refuse_sequence(_parameters(content, "body"))
    inputs, used = _inputs(content, binary_bytes, has_header=has_header)
    if used != binary_bytes:
        raise InvalidRequest(f"body: {binary_bytes} bytes of binary data where binary_data_size adds up to {used}")
    outputs = [_object(output, "outputs") for output in _list(content, "outputs")]
    names = [_text(output, "name", "outputs") for output in outputs]
    for name, output in zip(names, outputs, strict=True):
        refuse_unsupported(f"output {name[:100]}", _parameters(output, "outputs"))
    binary_default = _flag(content, "binary_data_output", default=False)
    binary = {
        name: _flag(output, "binary_data", default=binary_default) for name, output in zip(names, outputs, strict=True)
    }
    return InferMessage(_text(content, "id", "body", default=""), inputs, names, binary, binary_default)


def parse_to_arrays(text: bytes, binary_bytes: int, has_header: bool) -> InferMessage:
    """The same with JSON tensors as arrays, for the process that parses long JSON."""
    message = parse(text, binary_bytes, has_header=has_header)
    return replace(message, inputs=[_as_array(tensor) for tensor in message.inputs])


def with_binary(inputs: Sequence[InputTensor], binary: memoryview) -> list[InputTensor]:
    """The inputs, with their part of the binary data in place of the slices."""
    return [
        replace(tensor, data=binary[tensor.data]) if isinstance(tensor.data, slice) else tensor for tensor in inputs
    ]


def answer(model: str, version: str, message: InferMessage, found: Answer) -> tuple[dict[str, Any], dict[int, bytes]]:
    """The answer's JSON without its tensors, and the raw tensors that belong into it, by position."""
    outputs: list[dict[str, Any]] = []
    raws: dict[int, bytes] = {}
    for position, output in enumerate(found.outputs):
        spec = output.spec
        entry: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": output.shape}
        if message.binary.get(spec.name, message.binary_default):
            entry["parameters"] = {"binary_data_size": len(output.raw)}
        else:
            raws[position] = output.raw
        outputs.append(entry)
    content: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if message.request_id:
        content["id"] = message.request_id
    return content, raws


def render(content: dict[str, Any], raws: Mapping[int, bytes]) -> bytes:
    """The answer's JSON; raises InvalidRequest where an output has no JSON form."""
    for position, raw in raws.items():
        entry = content["outputs"][position]
        entry["data"] = codec.to_json(f"output {entry['name']}", entry["datatype"], raw)
    return json.dumps(content).encode()


def reply(text: bytes, binary: Sequence[bytes]) -> Reply:
    """Status, headers and body of an answer."""
    if not binary:
        return 200, [JSON_TYPE], [text]
    return 200, [_BINARY_TYPE, (HEADER_LENGTH, str(len(text)).encode())], [text, *binary]


def _as_array(tensor: InputTensor) -> InputTensor:
    if isinstance(tensor.data, slice):
        return tensor
    known = tensor.datatype in datatypes.DATATYPES  # else it is refused later, with the datatype that the model has
    data = tensor.read(f"input {tensor.name[:100]}", tensor.datatype, tensor.shape, tensor.data) if known else None
    return replace(tensor, data=data, read=codec.from_array)


def _json_length(body: memoryview, header_length: bytes | None) -> int:
    if header_length is None:
        return len(body)
    digits = len(str(len(body)))  # a number of more digits is too large
    if not (header_length.isdigit() and len(header_length) <= digits and 0 < int(header_length) <= len(body)):
        shown = header_length[:20].decode("latin-1")
        raise InvalidRequest(
            f"header Inference-Header-Content-Length: {shown!r} is not within the body's {len(body)} bytes"
        )
    return int(header_length)


def _load(text: bytes) -> Any:
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise InvalidRequest(
            "body: not UTF-8; is the header Inference-Header-Content-Length missing before binary data?"
        ) from None
    except RecursionError:
        raise InvalidRequest("body: JSON nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(
            f"body: broken JSON: {error}; binary data needs the header Inference-Header-Content-Length"
        ) from None


def _inputs(content: dict[str, Any], binary_bytes: int, *, has_header: bool) -> tuple[list[InputTensor], int]:
    """The inputs, and how many bytes of binary data they take, in their order."""
    inputs: list[InputTensor] = []
    used = 0
    for entry in _list(content, "inputs"):
        tensor = _object(entry, "inputs")
        name = _text(tensor, "name", "inputs")
        field = f"input {name[:100]}"
        datatype = _text(tensor, "datatype", field)
        shape = _shape(tensor, field)
        parameters = _parameters(tensor, field)
        refuse_unsupported(field, parameters)
        if "binary_data_size" not in parameters:
            if "data" not in tensor:
                raise InvalidRequest(f"{field}: data is missing")
            inputs.append(InputTensor(name, datatype, shape, tensor["data"], codec.from_json))
            continue
        size = parameters["binary_data_size"]
        if not has_header:
            raise InvalidRequest(f"{field}: binary_data_size needs the header Inference-Header-Content-Length")
        if "data" in tensor:
            raise InvalidRequest(f"{field}: has data beside binary_data_size; send one of them")
        if type(size) is not int or not 0 <= size <= binary_bytes - used:
            raise InvalidRequest(
                f"{field}: binary_data_size {size!r:.40} is not within the {binary_bytes - used} bytes left"
            )
        inputs.append(InputTensor(name, datatype, shape, slice(used, used + size), codec.from_raw))
        used += size
    return inputs, used


def _shape(tensor: dict[str, Any], field: str) -> list[int]:
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_RANK
        or any(type(size) is not int or size < 0 for size in shape)
    ):
        raise InvalidRequest(f"{field}: shape must be a list of whole numbers")
    return shape


def _list(content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key, [])
    if not isinstance(value, list):
        raise InvalidRequest(f"{key}: must be a list")
    refuse_too_many(key, len(value))
    return value


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field}: must be a JSON object")
    return value


def _text(content: dict[str, Any], key: str, field: str, default: str | None = None) -> str:
    value = content.get(key, default)
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: {key} must be a string")
    return value


def _parameters(content: dict[str, Any], field: str) -> dict[str, Any]:
    return _object(content.get("parameters", {}), f"{field}: parameters")


def _flag(content: dict[str, Any], key: str, *, default: bool) -> bool:
    value = _parameters(content, "outputs" if key == "binary_data" else "body").get(key, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameters.{key}: must be true or false")
    return value
