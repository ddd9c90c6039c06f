"""What the null server says in each API, and HTTP/2 header blocks, encoded once."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tritonclient.grpc import service_pb2 as pb


@dataclass(frozen=True)
class Answers:
    """One API's: over gRPC messages with their prefix, over REST whole HTTP/1.1 answers.

    `about` answers everything that is no inference. `is_inference` judges the beginning of a gRPC message, prefix
    included. An API without gRPC or REST leaves those out.
    """

    grpc_inference: bytes = b""
    grpc_about: bytes = b""
    is_inference: Callable[[bytes], bool] = bool
    rest_inference: bytes = b""
    rest_about: bytes = b""


MODEL: Final = "null"
FLOATS: Final = 64

_X: Final = {"name": "x", "datatype": "FP32", "shape": [-1, FLOATS]}
_Y: Final = {"name": "y", "datatype": "FP32", "shape": [1, FLOATS]}
_RAW: Final = struct.pack(f"<{FLOATS}f", *range(FLOATS))


def _grpc_inference() -> bytes:
    """A ModelInferResponse with its gRPC prefix: y, FP32 [1, 64]."""
    answer = pb.ModelInferResponse(model_name=MODEL, model_version="1", raw_output_contents=[_RAW])
    answer.outputs.add(**_Y)
    return _prefixed(answer.SerializeToString())


def _grpc_about() -> bytes:
    """A ServerLiveResponse, ServerReadyResponse, ModelReadyResponse and ModelMetadataResponse in one.

    Field 1 is `true` in the first three and the name in the last; a reader passes over the one that is not its type.
    """
    metadata = pb.ModelMetadataResponse(name=MODEL, versions=["1"])
    metadata.inputs.add(**_X)
    metadata.outputs.add(**{**_Y, "shape": [-1, FLOATS]})
    return _prefixed(pb.ServerReadyResponse(ready=True).SerializeToString() + metadata.SerializeToString())


def _rest_inference() -> bytes:
    """A whole HTTP/1.1 answer: y, FP32 [1, 64], as binary data."""
    y = {**_Y, "parameters": {"binary_data_size": len(_RAW)}}
    head = json.dumps({"model_name": MODEL, "model_version": "1", "outputs": [y]}).encode()
    return _http(head + _RAW, f"Inference-Header-Content-Length: {len(head)}\r\n")


def _rest_about() -> bytes:
    """A whole HTTP/1.1 answer: the model's metadata; /v2/health needs nothing but its status, 200."""
    model = {"name": MODEL, "versions": ["1"], "platform": "none", "inputs": [_X], "outputs": [_Y]}
    return _http(json.dumps(model).encode(), "Content-Type: application/json\r\n")


def _is_inference(message: bytes) -> bool:
    """Of the beginning of a gRPC message, prefix included: ModelInferRequest goes on after name and version; no other
    request has anything else.
    """
    end, at = 5 + int.from_bytes(message[1:5], "big"), 5
    for tag in (0x0A, 0x12):
        if at + 1 < end and at + 1 < len(message) and message[at] == tag:
            if message[at + 1] > 127:
                return True  # a name of more than 127 bytes: only the load asks for it more than once
            at += 2 + message[at + 1]
    return at < end


def _prefixed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def _http(body: bytes, header: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\n{header}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _field(name: str, value: str) -> bytes:
    """A header field of HPACK, literal and never indexed: no state on either side (RFC 7541, 6.2.3)."""
    return b"\x10" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


HEADERS: Final = b"\x88" + _field("content-type", "application/grpc")  # 0x88 is `:status: 200`
TRAILERS: Final = _field("grpc-status", "0")

ANSWERS: Final[Mapping[str, Answers]] = {
    "kserve": Answers(_grpc_inference(), _grpc_about(), _is_inference, _rest_inference(), _rest_about()),
}
