"""What an answer on the wire means; how it travels is in test_wire_http1 and test_wire_http2, and over every transport
in test_load and test_open_loop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from loadproof_clients.kserve import messages
from loadproof_clients.kserve.wire_grpc import WireGrpc
from loadproof_clients.kserve.wire_rest import WireRest
from loadproof_clients.records import GRPC_CODES, OK, UNREADABLE
from loadproof_clients.tensors.tensor import Tensor
from loadproof_clients.transport import Failure
from loadproof_clients.wire import frames, grpc
from loadproof_clients.wire.connection import Answer
from tests.clients.wire_peer import spec

RAW = np.arange(4, dtype=np.float32).tobytes()


def response() -> bytes:
    answer = service_pb2.ModelInferResponse(model_name="m", raw_output_contents=[RAW])
    answer.outputs.add(name="y", datatype="FP32", shape=[4])
    return bytes(answer.SerializeToString())


@pytest.mark.parametrize(
    ("headers", "http_status", "status", "message"),
    [
        ({b"grpc-status": b"0"}, 200, OK, ""),
        ({b"grpc-status": b"8", b"grpc-message": b"too%20many%2C%20sorry"}, 200, 8, "too many, sorry"),
        ({b"grpc-status": b"5"}, 404, 5, ""),
        ({b"grpc-status": b"99"}, 200, GRPC_CODES["UNKNOWN"], ""),
        ({}, 200, GRPC_CODES["UNKNOWN"], "HTTP status 200 without a gRPC status"),
        ({}, 503, GRPC_CODES["UNAVAILABLE"], "HTTP status 503 without a gRPC status"),
    ],
)
def test_the_status_of_grpc_comes_from_the_trailers(
    headers: Mapping[bytes, bytes], http_status: int, status: int, message: str
) -> None:
    client = WireGrpc(spec("grpc"), [])
    assert client.judge(Answer(http_status, headers, b"")) == (status, message)
    client.close()


def test_a_grpc_answer_is_one_whole_message() -> None:
    client = WireGrpc(spec("grpc"), [])
    framed = grpc.frame(response())
    assert client.tensors(Answer(200, {}, framed)) == [Tensor("y", "FP32", (4,), RAW)]
    for broken in (b"", framed[:-1], framed + b"x", b"\1" + framed[1:], grpc.frame(b"\xff" * 9)):
        with pytest.raises(Failure) as caught:
            client.tensors(Answer(200, {}, broken))
        assert caught.value.status == UNREADABLE
    client.close()


def test_a_rest_answer_is_json_and_the_tensors_after_it() -> None:
    client = WireRest(spec("rest"), [])
    output = {"name": "y", "datatype": "FP32", "shape": [4], "parameters": {"binary_data_size": len(RAW)}}
    head = json.dumps({"model_name": "m", "outputs": [output]}).encode()
    headers = {b"inference-header-content-length": str(len(head)).encode()}
    good = Answer(200, headers, head + RAW)
    assert client.judge(good) == (OK, "")
    assert client.tensors(good) == [Tensor("y", "FP32", (4,), RAW)]
    assert client.content(good) != client.content(Answer(200, {}, head + RAW))
    typed = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [4], "data": [0, 1, 2, 3]}]}).encode()
    assert client.tensors(Answer(200, {}, typed)) == [Tensor("y", "FP32", (4,), RAW)]
    for broken in (b"", b"{}", head[:-1] + RAW):
        with pytest.raises(Failure) as caught:
            client.tensors(Answer(200, headers, broken))
        assert caught.value.status == UNREADABLE
    client.close()


def test_an_error_of_rest_brings_its_text() -> None:
    client = WireRest(spec("rest"), [])
    assert client.judge(Answer(429, {}, b'{"error": "slow down"}')) == (429, '{"error": "slow down"}')
    client.close()


def test_a_request_is_encoded_as_tritonclient_would() -> None:
    payload = [Tensor("x", "FP32", (4,), RAW)]
    head, body = WireGrpc.encode(spec("grpc"), payload)
    request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[RAW])
    request.inputs.add(name="x", datatype="FP32", shape=[4])
    assert messages.request("m", payload) == request
    assert body == b"\0" + len(body[5:]).to_bytes(4, "big") + request.SerializeToString()
    assert frames.HeaderReader().read(head + frames.text(b"r.1.2.m")) == {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/inference.GRPCInferenceService/ModelInfer",
        b":authority": b"127.0.0.1:1",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        b"grpc-timeout": b"5000m",
        b"x-loadproof-id": b"r.1.2.m",
    }
    head, body = WireRest.encode(spec("rest"), payload)
    first, *lines = head.split(b"\r\n")
    headers = dict(line.split(b": ") for line in lines)
    length = int(headers[b"Inference-Header-Content-Length"])
    assert first == b"POST /v2/models/m/infer HTTP/1.1" and list(headers)[-1] == b"x-loadproof-id"
    assert int(headers[b"Content-Length"]) == len(body) and body[length:] == RAW
    told = json.loads(body[:length])
    assert told["inputs"][0]["parameters"] == {"binary_data_size": len(RAW)}
    assert told["parameters"] == {"binary_data_output": True}


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 400, 20_000])
def test_a_string_of_hpack_says_its_length(size: int) -> None:
    value = b"v" * size
    assert frames.HeaderReader().read(frames.literal(b"name", value)) == {b"name": value}


def test_header_blocks_mean_what_the_table_says_when_they_come() -> None:
    """A block that refers to the table is another header once the table has changed."""
    reader = frames.HeaderReader()
    added = b"\x40" + frames.text(b"a") + frames.text(b"1")
    assert reader.read(added) == {b"a": b"1"}
    assert reader.read(b"\xbe") == reader.read(b"\xbe") == {b"a": b"1"}
    assert reader.read(b"\x40" + frames.text(b"a") + frames.text(b"2")) == {b"a": b"2"}
    assert reader.read(b"\xbe") == {b"a": b"2"}
    assert reader.read(added) == {b"a": b"1"}
    assert reader.read(b"\xbe\xbf") == {b"a": b"2"}
