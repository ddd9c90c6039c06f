"""What the server serves over REST, as OpenAPI 3: KServe's Open Inference Protocol, and Triton's and OVMS's additions.

After the protocol's own description (kserve/open-inference-protocol, specification/protocol/open_inference_rest.yaml).
The model is `free`: y = relu(x), FP32, two dimensions; values are few, so that some requests suit it.
"""

from __future__ import annotations

from typing import Any, Final

_PARAMETERS: Final = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_INPUT: Final = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "additionalProperties": False,
    "properties": {
        "name": {"enum": ["x", "y"]},
        "shape": {"enum": [[1, 2], [2, 1], [0, 2], [2]]},
        "datatype": {"enum": ["FP32", "FP16", "INT64", "BYTES"]},
        "data": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 2},
    },
}
_OUTPUT: Final = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {"name": {"enum": ["y", "z"]}, "parameters": _PARAMETERS},
}
_REQUEST: Final = {
    "type": "object",
    "required": ["inputs"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 2},
        "outputs": {"type": "array", "items": _OUTPUT, "maxItems": 2},
    },
}
_ERROR: Final = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_NAMED: Final = {"type": "object", "required": ["name", "versions", "platform", "inputs", "outputs"]}
_ANSWER: Final = {"type": "object", "required": ["model_name", "model_version", "outputs"]}
_MODEL: Final = {"name": "model", "in": "path", "required": True, "schema": {"enum": ["free", "other"]}}
_VERSION: Final = {"name": "version", "in": "path", "required": True, "schema": {"enum": ["1", "2"]}}


def _operation(answer: dict[str, Any], *statuses: int, body: dict[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "responses": {
            "200": {"description": "done", "content": {"application/json": {"schema": answer}}},
            **{str(status): _described() for status in statuses},
        }
    }
    if body:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return found


def _described() -> dict[str, Any]:
    return {"description": "the client's mistake", "content": {"application/json": {"schema": _ERROR}}}


def _model(path: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """What there is of a model, under its path."""
    return {
        path: {"parameters": parameters, "get": _operation(_NAMED, 404)},
        f"{path}/ready": {"parameters": parameters, "get": _operation({"type": "object"}, 404)},
        f"{path}/config": {"parameters": parameters, "get": _operation({"type": "object"}, 404)},
        f"{path}/stats": {"parameters": parameters, "get": _operation({"type": "object"}, 404)},
        f"{path}/infer": {"parameters": parameters, "post": _operation(_ANSWER, 400, 404, body=_REQUEST)},
    }


DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {"title": "Open Inference Protocol", "version": "2"},
    "paths": {
        "/v2": {"get": _operation({"type": "object", "required": ["name", "version", "extensions"]})},
        "/v2/health/live": {"get": _operation({"type": "object", "required": ["live"]})},
        "/v2/health/ready": {"get": _operation({"type": "object", "required": ["ready"]})},
        "/v2/models/stats": {"get": _operation({"type": "object", "required": ["model_stats"]})},
        "/v2/repository/index": {"post": _operation({"type": "array"})},
        "/v1/config": {"get": _operation({"type": "object"})},
        "/v2/models/free/infer": {"post": _operation(_ANSWER, 400, body=_REQUEST)},
        **_model("/v2/models/{model}", [_MODEL]),
        **_model("/v2/models/{model}/versions/{version}", [_MODEL, _VERSION]),
    },
}
