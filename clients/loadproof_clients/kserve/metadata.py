"""Asks the server, over the run's protocol, what its model takes in."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

from loadproof_clients.payloads.shapes import Input
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import RANK_MAX
from loadproof_clients.transport import MetadataFailed

ANSWER_BYTES_MAX: Final = 16 << 20
INPUTS_MAX: Final = 1000


def ask(spec: LoadSpec) -> list[Input]:
    """The inputs of `spec.model` at `spec.url`, in the server's order; raises MetadataFailed. Sends no inference."""
    found = _grpc(spec) if spec.load.protocol == "grpc" else _rest(spec)
    try:
        inputs = [_input(one) for one in found["inputs"][: INPUTS_MAX + 1]]
    except Exception as error:  # of a stranger's answer anything may be missing, or of another type
        raise MetadataFailed(f"the answer is not KServe's: {type(error).__name__} {error}") from None
    if len(inputs) > INPUTS_MAX:
        raise MetadataFailed(f"the model is said to have more than {INPUTS_MAX} inputs")
    return inputs


def _input(one: Any) -> Input:
    name, datatype, shape = one["name"], one["datatype"], one["shape"]
    if not (isinstance(name, str) and isinstance(datatype, str) and len(shape) <= RANK_MAX):
        raise TypeError("an input's name, datatype or shape")
    return Input(name, datatype, tuple(int(size) for size in shape))


def _grpc(spec: LoadSpec) -> dict[str, Any]:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    from loadproof_clients.kserve.tritonclient_grpc import channel  # its import makes gRPC cooperate with gevent

    with closing(InferenceServerClient(spec.url, channel_args=channel(ANSWER_BYTES_MAX))) as client:
        try:
            answer = client.get_model_metadata(spec.model, client_timeout=spec.load.timeout_s)
        except InferenceServerException as error:
            raise MetadataFailed(f"{str(error.status()).removeprefix('StatusCode.')}: {error.message()}") from None
    return {"inputs": [{"name": i.name, "datatype": i.datatype, "shape": i.shape} for i in answer.inputs]}


def _rest(spec: LoadSpec) -> Any:
    import gevent
    from tritonclient.http import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    from loadproof_clients.kserve import bounded_http

    limit_s = spec.load.timeout_s
    with closing(InferenceServerClient(spec.url, connection_timeout=limit_s, network_timeout=limit_s)) as client:
        bounded_http.bound(client, ANSWER_BYTES_MAX)
        try:
            with gevent.Timeout(limit_s):  # the client's own are for each read
                return client.get_model_metadata(spec.model)
        except gevent.Timeout:
            raise MetadataFailed(f"no whole answer within {limit_s:g} s") from None
        except InferenceServerException as error:
            raise MetadataFailed(f"HTTP {error.status()}: {error.message()}") from None
        except Exception as error:  # of the network, of HTTP, and whatever a decoder raises
            raise MetadataFailed(f"{type(error).__name__}: {error}") from None
