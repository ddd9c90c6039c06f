"""Asks the server, over the run's protocol, what its model takes in."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from loadproof_clients.payloads.shapes import Input
from loadproof_clients.spec import LoadSpec
from loadproof_clients.transport import MetadataFailed


def ask(spec: LoadSpec) -> list[Input]:
    """The inputs of `spec.model` at `spec.url`, in the server's order; raises MetadataFailed. Sends no inference."""
    found = _grpc(spec) if spec.load.protocol == "grpc" else _rest(spec)
    try:
        return [Input(i["name"], i["datatype"], tuple(int(size) for size in i["shape"])) for i in found["inputs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise MetadataFailed(f"the answer is not KServe's: {type(error).__name__} {error}") from None


def _grpc(spec: LoadSpec) -> dict[str, Any]:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    from loadproof_clients.kserve.tritonclient_grpc import CHANNEL  # its import makes gRPC cooperate with gevent

    with closing(InferenceServerClient(spec.url, channel_args=CHANNEL)) as client:
        try:
            answer = client.get_model_metadata(spec.model, client_timeout=spec.load.timeout_s)
        except InferenceServerException as error:
            raise MetadataFailed(f"{str(error.status()).removeprefix('StatusCode.')}: {error.message()}") from None
    return {"inputs": [{"name": i.name, "datatype": i.datatype, "shape": i.shape} for i in answer.inputs]}


def _rest(spec: LoadSpec) -> Any:
    from http.client import HTTPException

    from tritonclient.http import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    limit_s = spec.load.timeout_s
    with closing(InferenceServerClient(spec.url, connection_timeout=limit_s, network_timeout=limit_s)) as client:
        try:
            return client.get_model_metadata(spec.model)
        except InferenceServerException as error:
            raise MetadataFailed(f"HTTP {error.status()}: {error.message()}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise MetadataFailed(f"{type(error).__name__}: {error}") from None
