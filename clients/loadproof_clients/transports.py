"""The table of clients: which class speaks an API over a protocol by a transport, and what asks for a model's inputs.

The classes are named, not imported: each imports libraries that only its own loads need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

from loadproof_clients.payloads.shapes import Input
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import Tensors
from loadproof_clients.transport import Client

# By load.api, load.protocol and load.transport: a transport.Client.
CLIENTS: Final = {
    ("kserve", "grpc", "tritonclient"): "kserve.tritonclient_grpc.TritonGrpc",
    ("kserve", "rest", "tritonclient"): "kserve.tritonclient_rest.TritonRest",
    ("kserve", "grpc", "wire"): "kserve.wire_grpc.WireGrpc",
    ("kserve", "rest", "wire"): "kserve.wire_rest.WireRest",
}
# By load.api: (LoadSpec) -> the model's inputs, in the server's order; raises MetadataFailed.
METADATA: Final = {"kserve": "kserve.metadata.ask"}


def prepare(spec: LoadSpec, payloads: Sequence[Tensors]) -> Callable[[], Client]:
    """Encodes the payloads once for all clients of the process; returns what makes a client."""
    load = spec.load
    client = _found(CLIENTS[load.api, load.protocol, load.transport])
    encoded = [client.encode(spec, payload) for payload in payloads]
    return lambda: client(spec, encoded)


def inputs(spec: LoadSpec) -> list[Input]:
    """The inputs of `spec.model` at `spec.url`; raises MetadataFailed. Sends no inference."""
    found: list[Input] = _found(METADATA[spec.load.api])(spec)
    return found


def _found(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(f"loadproof_clients.{module}"), attribute)
