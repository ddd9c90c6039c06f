"""Whatever a client sends over either protocol is answered as its own mistake: no crash, no hang, no leak, no 500.

A bounded number of examples, the same ones each time; LOADPROOF_FUZZ_EXAMPLES asks for more, and then for new ones.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tritonclient.grpc import service_pb2 as pb

from tests.server import openapi
from tests.server.kserve.test_rest import GOOD
from tests.server.small_models import Serve, Server, wait_until

EXAMPLES = int(os.environ.get("LOADPROOF_FUZZ_EXAMPLES", "0"))
METHODS = ("ModelInfer", "ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics", "RepositoryIndex")
MISTAKES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
HTTP_MISTAKES = {200, 400, 404, 405, 413, 415, 431}


def fuzz(examples: int, share: int = 1) -> settings:
    """So many examples, or a part of those asked for."""
    return settings(
        max_examples=EXAMPLES // share or examples,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Server]:
    """At the end it has as many files open as at the beginning, and hardly more memory."""
    started = serve("free", "--nireq", "2")
    process = psutil.Process(started.process.pid)
    for _ in range(20):  # what it makes once
        rest(started, "POST", "/v2/models/free/infer", json.dumps(GOOD).encode())
    files, memory = process.num_fds(), process.memory_info().rss
    yield started
    assert started.metric("ovms_current_requests") == 0
    wait_until(lambda: process.num_fds() <= files + 2)
    assert process.memory_info().rss - memory < 100 << 20


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as made:
        yield made


# OpenVINO has the CPU flush subnormal numbers to zero, in the process of these tests too; hypothesis would mind.
FLOATS, DOUBLES = st.floats(width=32, allow_subnormal=False), st.floats(allow_subnormal=False)

# ---- gRPC ----

NAMES = st.sampled_from(["x", "y", "free", "", "1"]) | st.text(max_size=20)
DATATYPES = st.sampled_from(["FP32", "BYTES", "INT64", "BOOL", "FP16"]) | st.text(max_size=8)
SIZES = st.sampled_from([0, 1, 2, 4, -1, 2**31, 2**62, -(2**63)]) | st.integers(0, 8)
SHAPES = st.lists(SIZES, max_size=4) | st.just([1] * 70)
RAWS = st.binary(max_size=64) | st.sampled_from([bytes(16), bytes(64)])


@st.composite
def contents(draw: st.DrawFn) -> Any:
    return pb.InferTensorContents(
        fp32_contents=draw(st.lists(FLOATS, max_size=8)),
        int64_contents=draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=2)),
        bytes_contents=draw(st.lists(st.binary(max_size=8), max_size=2)),
    )


@st.composite
def infer_requests(draw: st.DrawFn) -> bytes:
    request = pb.ModelInferRequest(
        model_name=draw(st.just("free") | NAMES), model_version=draw(st.sampled_from(["", "1", "9"])), id=draw(NAMES)
    )
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(name=draw(st.just("x") | NAMES), datatype=draw(DATATYPES), shape=draw(SHAPES))
        if draw(st.booleans()):
            tensor.contents.CopyFrom(draw(contents()))
        if draw(st.booleans()):
            tensor.parameters[draw(NAMES)].int64_param = 1
    for name in draw(st.lists(NAMES, max_size=2)):
        request.outputs.add(name=name)
    request.raw_input_contents.extend(draw(st.lists(RAWS, max_size=3)))
    return bytes(request.SerializeToString())


@st.composite
def mangled(draw: st.DrawFn, whole: Any) -> bytes:
    """Bytes of a good message with some of them changed, left out or put in."""
    message = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(message)))
        message[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(message)


@fuzz(400)
@given(method=st.sampled_from(METHODS), message=infer_requests() | mangled(infer_requests()) | st.binary(max_size=64))
def test_grpc_reports_the_clients_mistake(channel: Any, method: str, message: bytes) -> None:
    try:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(message, timeout=30)
        code = "OK"
    except grpc.RpcError as error:
        code = error.code().name
    assert code in MISTAKES


# ---- REST ----

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | DOUBLES
    | st.text(max_size=8)
    | st.sampled_from(["x", "FP32", "BYTES", 2**63, 2**2000, "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("name", "datatype", "shape", "data", "parameters", "binary_data_size", "binary_data", "classification")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """The good request, or a part of it replaced by any JSON."""
    content: Any = json.loads(json.dumps(GOOD))
    content["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
    for _ in range(draw(st.integers(0, 3))):
        place: Any = content
        for _ in range(draw(st.integers(0, 3))):
            inner = [value for value in (place.values() if isinstance(place, dict) else place) if value]
            inner = [value for value in inner if isinstance(value, dict | list)]
            if not inner:
                break
            place = draw(st.sampled_from(inner))
        if isinstance(place, dict):
            place[draw(st.sampled_from([*place, *KEYS]))] = draw(JSON)
        elif place:
            place[draw(st.integers(0, len(place) - 1))] = draw(JSON)
    return json.dumps(content).encode() + draw(st.sampled_from([b"", b"", bytes(16), b"\xff"]))


PATHS = st.sampled_from(
    ["/v2/models/free/infer"] * 8
    + ["/v2/models/free", "/v2", "/v2/models/free/versions/1/infer", "/v2/models/../infer", "/v1/config", "/metrics"]
    + ["/v2/models/free/config", "/v2/models/stats", "/v2/repository/index", "/v2/models/%2e%2e%2f/infer", "/%ff"]
) | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(lambda text: "/" + text)
HEADERS = st.dictionaries(
    st.sampled_from(["Inference-Header-Content-Length", "Content-Encoding", "Expect", "Content-Type", "Upgrade"]),
    st.sampled_from(["0", "1", "117", "-1", "gzip", "100-continue", "application/json", "h2c", "9" * 30, "é"]),
    max_size=2,
)


def rest(server: Server, method: str, path: str, body: bytes, headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection(server.rest, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@fuzz(600)
@given(
    method=st.sampled_from(["POST"] * 6 + ["GET", "PUT", "HEAD", "DELETE"]),
    path=PATHS,
    body=bodies() | mangled(bodies()) | st.binary(max_size=64),
    headers=HEADERS,
)
def test_rest_reports_the_clients_mistake(
    server: Server, method: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    assert rest(server, method, path, body, headers) in HTTP_MISTAKES


GOOD_HTTP = b"POST /v2/models/free/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (
    len(json.dumps(GOOD)),
    json.dumps(GOOD).encode(),
)
CHUNKED = b"POST /v2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nabcd\r\n0\r\nX: y\r\n\r\n"


@fuzz(400)
@given(
    pieces=st.lists(
        mangled(st.sampled_from([GOOD_HTTP, CHUNKED, GOOD_HTTP + CHUNKED])) | st.binary(max_size=32), max_size=3
    )
)
def test_bytes_on_a_rest_connection_are_answered_or_it_is_closed(server: Server, pieces: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as client:
        answer = b""
        try:
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            while more := client.recv(1 << 16):
                answer += more
        except TimeoutError:
            raise
        except OSError:  # it was closed in the middle of what is no HTTP
            pass
    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert {int(line[9:12]) for line in lines} <= HTTP_MISTAKES | {100}
    assert rest(server, "GET", "/v2/health/live", b"") == 200


@fuzz(100)
@given(data=st.binary(max_size=200), greeting=st.booleans())
def test_bytes_on_a_grpc_connection_hurt_nobody(server: Server, channel: Any, data: bytes, greeting: bool) -> None:
    with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=30) as client:
        try:
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" * greeting + data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):
                pass
        except TimeoutError:
            raise
        except OSError:
            pass
    assert channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=30) == b"\x08\x01"


# ---- REST, by its description ----


@schemathesis.openapi.from_dict(openapi.DOCUMENT).parametrize()
@fuzz(10, share=20)  # for each of 17 operations
def test_rest_answers_as_the_open_inference_protocol_says(case: Any, server: Server) -> None:
    """Status, content type and JSON of each answer, to what the protocol takes and to what it does not."""
    case.call_and_validate(
        base_url=f"http://{server.rest}",
        timeout=30,
        excluded_checks=[positive_data_acceptance],  # a tensor that the protocol takes may not suit the model
    )
