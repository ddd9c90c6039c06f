from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from loadproof_server.connections.http1_request import Request
from loadproof_server.dataplane.metrics import Metrics
from loadproof_server.dataplane.plane import Plane
from loadproof_server.kserve.rest import RestApp
from tests.server.small_models import KINDS, KINDS_SHAPE, Server, openvino_kinds, wait_until

HEADER = "Inference-Header-Content-Length"
X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
GOOD: dict[str, Any] = {"inputs": [{**X, "data": [1, -2, 3.5, 0]}]}


@pytest.fixture
def connection(free: Server) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection(free.rest, timeout=60)
    yield made
    made.close()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    """Status and JSON; a body that is no bytes is sent as JSON."""
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def infer(connection: http.client.HTTPConnection, body: Any, **headers: str) -> tuple[int, Any]:
    return ask(connection, "POST", "/v2/models/free/infer", body, **headers)


def test_health_and_metadata_are_those_of_kserve(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "GET", "/v2/health/live") == (200, {"live": True})
    assert ask(connection, "GET", "/v2/health/ready") == (200, {"ready": True})
    assert ask(connection, "GET", "/v2/models/free/ready") == (200, {"ready": True})
    status, server = ask(connection, "GET", "/v2")
    assert (status, server["name"], server["extensions"][0]) == (200, "loadproof-server", "binary_tensor_data")
    expected = {
        "name": "free",
        "versions": ["1"],
        "platform": "OpenVINO",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, -1]}],
    }
    for path in ("/v2/models/free", "/v2/models/free/versions/1"):
        assert ask(connection, "GET", path) == (200, expected)


def test_json_is_answered_in_json_with_the_requests_id(connection: http.client.HTTPConnection) -> None:
    expected = {
        "model_name": "free",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 0.0, 3.5, 0.0]}],
        "id": "r-1",
    }
    assert infer(connection, {**GOOD, "id": "r-1"}) == (200, expected)


def test_every_datatype_is_answered_binary_with_openvinos_own_bits(kinds: Server, models: dict[str, Path]) -> None:
    tensors = [
        {"name": f"x_{kind}", "datatype": kind, "shape": KINDS_SHAPE, "parameters": {"binary_data_size": len(raw)}}
        for kind, (_, raw) in KINDS.items()
    ]
    header = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    header += b" " * (len(header) % 2 + 1)  # an odd length, so that no tensor is aligned
    connection = http.client.HTTPConnection(kinds.rest, timeout=60)
    body = b"".join((header, *(raw for _, raw in KINDS.values())))
    connection.request("POST", "/v2/models/kinds/infer", body, {HEADER: str(len(header))})
    response = connection.getresponse()
    assert response.status == 200
    length = int(response.headers[HEADER])
    content = response.read()
    connection.close()
    found = {}
    position = length
    for output in json.loads(content[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["datatype"]] = content[position : position + size]
        position += size
    assert position == len(content)
    assert found == openvino_kinds(models["kinds"], list(KINDS))


def test_every_datatype_with_a_json_form_goes_in_and_out_as_json(typed: Server, models: dict[str, Path]) -> None:
    kinds = [kind for kind in KINDS if kind not in ("FP16", "BF16")]
    tensors: list[dict[str, Any]] = []
    for kind in kinds:
        data: Any = ["a", "", "ÿ", "d", "e", "f"]
        if kind != "BYTES":
            data = np.frombuffer(KINDS[kind][1], triton.triton_to_np_dtype(kind)).reshape(KINDS_SHAPE).tolist()
        tensors.append({"name": f"x_{kind}", "datatype": kind, "shape": KINDS_SHAPE, "data": data})
    connection = http.client.HTTPConnection(typed.rest, timeout=60)
    status, answer = ask(connection, "POST", "/v2/models/typed/infer", {"inputs": tensors})
    connection.close()
    assert status == 200
    expected = openvino_kinds(models["typed"], kinds)
    for output in answer["outputs"]:
        kind = output["datatype"]
        if kind == "BYTES":
            assert output["data"] == ["a", "", "ÿ", "d", "e", "f"]
        else:
            assert np.array(output["data"], triton.triton_to_np_dtype(kind)).tobytes() == expected[kind]


def test_tritonclient_reads_binary_and_json_answers(free: Server) -> None:
    with triton.InferenceServerClient(free.rest) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("free")
        values = np.array([[1, -2, 3]], np.float32)
        for binary in (True, False):
            tensor = triton.InferInput("x", [1, 3], "FP32")
            tensor.set_data_from_numpy(values, binary_data=binary)
            output = triton.InferRequestedOutput("y", binary_data=binary)
            assert client.infer("free", [tensor], outputs=[output]).as_numpy("y").tolist() == [[1, 0, 3]]


def test_a_connection_is_kept_for_the_next_request(connection: http.client.HTTPConnection) -> None:
    assert infer(connection, GOOD)[0] == 200
    kept = connection.sock
    assert kept is not None
    assert infer(connection, b"{")[0] == 400
    assert infer(connection, GOOD)[0] == 200
    assert connection.sock is kept


def test_16_mib_travel_both_ways(connection: http.client.HTTPConnection) -> None:
    values = np.random.default_rng(1).standard_normal((1024, 4096)).astype(np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1024, 4096], "parameters": {"binary_data_size": values.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    connection.request("POST", "/v2/models/free/infer", header + values.tobytes(), {HEADER: str(len(header))})
    response = connection.getresponse()
    length = int(response.headers[HEADER])
    assert response.read()[length:] == np.maximum(values, 0).tobytes()


def entry(**fields: Any) -> dict[str, Any]:
    """The good request with some fields of its input changed."""
    return {"inputs": [{**GOOD["inputs"][0], **fields}]}


def binary(size: Any, **fields: Any) -> dict[str, Any]:
    return {"inputs": [{**X, "parameters": {"binary_data_size": size}, **fields}]}


BAD: list[tuple[Any, str]] = [
    (b"{", "body: broken JSON"),
    (b"", "body: broken JSON"),
    (b"[]", "body: must be a JSON object"),
    (b"\xff\xff", "body: not UTF-8"),
    (b"[" * 100_000, "body: JSON nested too deeply"),
    ({}, "input x: missing"),
    ({"inputs": {}}, "inputs: must be a list"),
    ({"inputs": [1]}, "inputs: must be a JSON object"),
    ({"inputs": [{}]}, "inputs: name must be a string"),
    ({**GOOD, "id": 7}, "body: id must be a string"),
    (entry(name="z"), "input 'z': unknown; free has x"),
    (entry(datatype="INT8"), "input x: datatype must be FP32, not 'INT8'"),
    (entry(datatype=None), "input x: datatype must be a string"),
    (entry(shape=[4]), "input x: shape must be [-1, -1], not [4]"),
    (entry(shape=[1, -4]), "input x: shape must be a list of whole numbers"),
    (entry(shape=[1, 4.0]), "input x: shape must be a list of whole numbers"),
    (entry(shape=None), "input x: shape must be a list of whole numbers"),
    (entry(shape=[2, 4]), "input x: data of shape [4] does not fit shape [2, 4]"),
    (entry(data=[1, 2, 3, "4"]), "input x: data for FP32 holds strings"),
    (entry(data="1"), "input x: data must be a list"),
    ({"inputs": [X]}, "input x: data is missing"),
    (entry(parameters=[]), "input x: parameters: must be a JSON object"),
    (entry(parameters={"shared_memory_region": "r"}), "input x: shared_memory_region is not supported"),
    ({**GOOD, "outputs": [{"name": "y", "parameters": {"classification": 2}}]}, "output y: classification is not"),
    (binary(16), "input x: binary_data_size needs the header Inference-Header-Content-Length"),
    ({"inputs": GOOD["inputs"] * 2}, "input x: given twice"),
    ({**GOOD, "outputs": [{"name": "z"}]}, "output 'z': unknown; free has y"),
    ({**GOOD, "outputs": [{"name": "y"}, {"name": "y"}]}, "output y: asked for twice"),
    ({**GOOD, "parameters": {"binary_data_output": 1}}, "parameters.binary_data_output: must be true or false"),
    ({**GOOD, "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "parameters.binary_data: must be true"),
]


@pytest.mark.parametrize(("body", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_request_is_refused_with_its_field_and_counted_once(
    free: Server, connection: http.client.HTTPConnection, body: Any, message: str
) -> None:
    failed = free.metric("ovms_requests_fail", interface="REST")
    status, answer = infer(connection, body)
    assert status == 400
    assert message in answer["error"]
    assert free.metric("ovms_requests_fail", interface="REST") == failed + 1
    assert infer(connection, GOOD)[0] == 200


@pytest.mark.parametrize(
    ("header", "content", "raw", "message"),
    [
        ("0", binary(16), bytes(16), "'0' is not within the body's"),
        ("-5", binary(16), bytes(16), "'-5' is not within the body's"),
        ("9999", binary(16), bytes(16), "'9999' is not within the body's"),
        ("x", binary(16), bytes(16), "'x' is not within the body's"),
        ("9" * 5000, binary(16), bytes(16), "'99999999999999999999' is not within the body's"),
        ("right", binary(17), bytes(16), "input x: binary_data_size 17 is not within the 16 bytes left"),
        ("right", binary(-1), bytes(16), "input x: binary_data_size -1 is not within the 16 bytes left"),
        ("right", binary("16"), bytes(16), "input x: binary_data_size '16' is not within the 16 bytes left"),
        ("right", binary(12), bytes(12), "input x: 12 bytes for FP32 of shape [1, 4], which takes 16"),
        ("right", binary(16), bytes(20), "body: 20 bytes of binary data where binary_data_size adds up to 16"),
        ("right", binary(16, data=[1]), bytes(16), "input x: has data beside binary_data_size"),
        ("right", GOOD, bytes(16), "body: 16 bytes of binary data where binary_data_size adds up to 0"),
    ],
)
def test_bad_binary_data_is_refused_with_its_field(
    connection: http.client.HTTPConnection, header: str, content: Any, raw: bytes, message: str
) -> None:
    text = json.dumps(content).encode()
    length = str(len(text)) if header == "right" else header
    status, answer = infer(connection, text + raw, Inference_Header_Content_Length=length)
    assert status == 400
    assert message in answer["error"]


def test_unknown_paths_models_and_methods_have_their_own_errors(
    free: Server, connection: http.client.HTTPConnection
) -> None:
    labels = {"interface": "REST", "name": "", "method": "ModelInfer"}
    failed = free.metric("ovms_requests_fail", **labels)
    for method, path, status, message in (
        ("GET", "/v1/models/free", 404, "path '/v1/models/free': unknown"),
        ("GET", "/v2/models/no", 404, "model 'no': unknown; this server has free"),
        ("GET", "/v2/models/no/ready", 404, "model 'no': unknown"),
        ("POST", "/v2/models/no/infer", 404, "model 'no': unknown"),
        ("POST", "/v2/models/free/versions/2/infer", 404, "version '2' of model free: unknown; this server has 1"),
        ("GET", "/v2/models/free/infer", 405, "method GET: /v2/models/free/infer takes POST"),
        ("POST", "/v2/health/live", 405, "method POST: /v2/health/live takes GET"),
    ):
        found, answer = ask(connection, method, path, GOOD if method == "POST" else None)
        assert (found, message in answer["error"]) == (status, True), (path, answer)
    assert free.metric("ovms_requests_fail", **labels) == failed + 2


def test_a_wrong_method_is_answered_with_the_allowed_ones_and_head_is_one_of_them(
    connection: http.client.HTTPConnection,
) -> None:
    for method, path, status, allowed in (
        ("PUT", "/v2/models/free/infer", 405, "POST"),
        ("OPTIONS", "/v2/health/live", 405, "GET, HEAD"),
        ("HEAD", "/v2/models/free/ready", 200, None),
        ("HEAD", "/v2/health/live", 200, None),
    ):
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        assert (response.status, response.headers["Allow"]) == (status, allowed), (method, path)


def test_a_compressed_body_is_refused(connection: http.client.HTTPConnection) -> None:
    status, answer = infer(connection, gzip.compress(json.dumps(GOOD).encode()), Content_Encoding="gzip")
    assert (status, "header Content-Encoding" in answer["error"]) == (415, True)


def test_a_client_that_leaves_in_the_middle_of_its_request_is_counted_as_failed(free: Server) -> None:
    failed = free.metric("ovms_requests_fail", interface="REST", name="free")
    with socket.create_connection(("127.0.0.1", free.rest_port)) as client:
        client.sendall(b"POST /v2/models/free/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
    wait_until(lambda: free.metric("ovms_requests_fail", interface="REST", name="free") == failed + 1)


def test_a_request_in_pieces_is_put_together(free: Server) -> None:
    body = json.dumps(GOOD).encode()
    with socket.create_connection(("127.0.0.1", free.rest_port)) as client:
        client.sendall(b"POST /v2/models/free/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for position in range(0, len(body), 20):
            piece = body[position : position + 20]
            client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.sendall(b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_metrics_are_served_only_where_they_are_enabled(free: Server) -> None:
    connection = http.client.HTTPConnection(free.rest)
    connection.request("GET", "/metrics")
    assert connection.getresponse().headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    connection.close()
    reply = asyncio.run(RestApp(Plane(Metrics()))(Request("GET", "/metrics", {})))
    assert reply[0] == 404
