from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import proto
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.server.small_models import Serve


def run(model: Path, requests: Path, answers: Path, *flags: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "loadproof_server.reference", "--model_path", str(model), *flags]
    command += ["--requests", str(requests), "--answers", str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def request(values: np.ndarray[Any, Any]) -> Any:
    made = pb.ModelInferRequest(model_name="brief", raw_input_contents=[values.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=values.shape)
    return made


def write(path: Path, requests: list[Any]) -> Path:
    with path.open("wb") as file:
        for message in requests:
            proto.serialize_length_prefixed(message, file)
    return path


def test_the_answers_are_the_servers_bit_for_bit_and_in_order(
    serve: Serve, models: dict[str, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    requests = [request(rng.standard_normal((1, 512)).astype(np.float32)) for _ in range(2)]
    config = '{"NUM_STREAMS": "2"}'
    answers = tmp_path / "answers.bin"
    code, message = run(models["brief"], write(tmp_path / "in.bin", requests), answers, "--plugin_config", config)
    assert (code, message) == (0, "")
    server = serve("brief", "--plugin_config", config)
    with answers.open("rb") as file, grpc.insecure_channel(server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for sent in requests:
            answer = proto.parse_length_prefixed(pb.ModelInferResponse, file)
            assert answer == stub.ModelInfer(sent)
            assert any(answer.raw_output_contents[0])
        assert proto.parse_length_prefixed(pb.ModelInferResponse, file) is None


def test_a_request_that_does_not_fit_is_one_line_that_numbers_it(models: dict[str, Path], tmp_path: Path) -> None:
    requests = [request(np.zeros((1, 4), np.float32)), request(np.zeros(4, np.float32))]
    code, message = run(models["free"], write(tmp_path / "in.bin", requests), tmp_path / "out.bin")
    assert code == 1
    assert message == "loadproof-reference: request 1: input x: shape must be [-1, -1], not [4]\n"


def test_files_that_are_no_requests_are_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"\x05\xff\xff")
    code, message = run(models["free"], broken, tmp_path / "out.bin")
    assert code == 2
    assert message == f"loadproof-reference: --requests: {broken} does not hold length-delimited ModelInferRequests\n"
    code, message = run(models["free"], tmp_path / "none.bin", tmp_path / "out.bin")
    assert (code, message) == (1, f"loadproof-reference: {tmp_path / 'none.bin'}: No such file or directory\n")
