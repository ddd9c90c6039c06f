"""A model with a state answers each request from its initial one, and no request may be one of a sequence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from loadproof_clients.tensors import files
from loadproof_clients.tensors.tensor import from_array, to_array
from loadproof_server.engine.requests import Engine
from tests.server.small_models import Serve, Server

ONES = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def stateful(serve: Serve) -> Server:
    return serve("sum", "--nireq", "2")


@pytest.fixture(params=["gRPC", "REST"])
def client(request: pytest.FixtureRequest, stateful: Server) -> Any:
    module: Any = triton_grpc if request.param == "gRPC" else triton_http
    made = module.InferenceServerClient(stateful.grpc if request.param == "gRPC" else stateful.rest)
    made.infer_input = module.InferInput
    yield made
    made.close()


def infer(client: Any, value: float = 1, **more: Any) -> list[float]:
    tensor = client.infer_input("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(ONES * np.float32(value))
    found: list[float] = client.infer("sum", [tensor], **more).as_numpy("y")[0].tolist()
    return found


def test_each_request_has_its_own_answer_whatever_came_before(client: Any) -> None:
    for value in (1, 1, 1, 5, 1):
        assert infer(client, value) == [value] * 4


@pytest.mark.parametrize("device", ["CPU", "HETERO:CPU", "AUTO", "MULTI:CPU"])
def test_the_state_begins_anew_in_the_threads_and_inline_on_each_device(models: dict[str, Path], device: str) -> None:
    engine = Engine(models["sum"] / "1" / "model.xml", device)
    answers = [engine.infer([ONES], [0]) for _ in range(3)] + [engine.infer_inline([ONES], [0]) for _ in range(3)]
    engine.close()
    assert [np.frombuffer(answer.outputs[0].raw, np.float32)[0] for answer in answers] == [1] * 6


@pytest.mark.parametrize(
    ("more", "parameter"),
    [
        ({"sequence_id": 7}, "sequence_id"),
        ({"sequence_id": "a", "sequence_start": True}, "sequence_id"),
        ({"sequence_id": 7, "sequence_end": True}, "sequence_id"),
    ],
)
def test_a_request_of_a_sequence_is_refused_by_the_parameters_name(
    client: Any, more: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(InferenceServerException, match=f"parameters.{parameter}: sequences are not supported"):
        infer(client, **more)
    assert infer(client) == [1] * 4


@pytest.mark.parametrize("parameter", ["sequence_start", "sequence_end"])
def test_so_is_one_that_only_begins_or_ends_a_sequence(stateful: Server, parameter: str) -> None:
    client = triton_http.InferenceServerClient(stateful.rest)
    body = {
        "parameters": {parameter: True},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1] * 4}],
    }
    response = client._client_stub.post("/v2/models/sum/infer", body=json.dumps(body))
    assert response.status_code == 400
    assert f"parameters.{parameter}: sequences are not supported" in response.read().decode()
    client.close()


def test_the_reference_program_begins_anew_with_each_payload(models: dict[str, Path], tmp_path: Path) -> None:
    files.write(tmp_path / "in", [[from_array("x", "FP32", ONES * np.float32(value))] for value in (1, 1, 3)])
    command = [sys.executable, "-m", "loadproof.reference", "--model_path", str(models["sum"])]
    command += ["--payloads", str(tmp_path / "in"), "--answers", str(tmp_path / "out")]
    subprocess.run(command, check=True, timeout=60)
    assert [to_array(answer[0])[0, 0] for answer in files.read(tmp_path / "out")] == [1, 1, 3]
