"""The reference program: its answers are the server's own, of each datatype, though it shares no code with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from loadproof_clients.kserve import messages
from loadproof_clients.tensors import files
from loadproof_clients.tensors.tensor import Tensor, Tensors, from_array
from tests.server.small_models import KINDS, KINDS_SHAPE, Serve, Server


def run(model: Path, payloads: Path, answers: Path, *flags: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "loadproof.reference", "--model_path", str(model), *flags]
    command += ["--payloads", str(payloads), "--answers", str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def floats(values: np.ndarray[Any, Any]) -> Tensors:
    return [from_array("x", "FP32", values.astype(np.float32))]


def write(path: Path, payloads: list[Tensors]) -> Path:
    files.write(path, payloads)
    return path


def served(address: str, model: str, payload: Tensors) -> list[Tensor]:
    with grpc.insecure_channel(address) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(messages.request(model, payload))
    return messages.read_response(answer)


def test_the_answers_are_the_servers_bit_for_bit_and_in_order(
    serve: Serve, models: dict[str, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    payloads = [floats(rng.standard_normal((1, 512))) for _ in range(2)]
    config = '{"NUM_STREAMS": "2"}'
    code, message = run(models["brief"], write(tmp_path / "in", payloads), tmp_path / "out", "--plugin_config", config)
    assert (code, message) == (0, "")
    server = serve("brief", "--plugin_config", config)
    answers = files.read(tmp_path / "out")
    assert answers == [served(server.grpc, "brief", payload) for payload in payloads]
    assert answers[0] != answers[1] and any(answers[0][0].raw)


def test_every_datatype_is_answered_as_the_server_does(kinds: Server, models: dict[str, Path], tmp_path: Path) -> None:
    payload = [Tensor(f"x_{kind}", kind, KINDS_SHAPE, raw) for kind, (_, raw) in KINDS.items()]
    assert run(models["kinds"], write(tmp_path / "in", [payload]), tmp_path / "out") == (0, "")
    (answer,) = files.read(tmp_path / "out")
    assert sorted(answer) == sorted(served(kinds.grpc, "kinds", payload))
    assert len(answer) == len(KINDS)


def test_a_payload_that_does_not_fit_is_one_line_that_numbers_it(models: dict[str, Path], tmp_path: Path) -> None:
    payloads = [floats(np.zeros((1, 4))), [from_array("y", "FP32", np.zeros((1, 4), np.float32))]]
    code, message = run(models["free"], write(tmp_path / "in", payloads), tmp_path / "out")
    assert (code, message) == (1, "loadproof-reference: payload 1: it has inputs y; the model's are x\n")
    code, message = run(models["free"], write(tmp_path / "in", [floats(np.zeros(4))]), tmp_path / "out")
    assert code == 1 and len(message.splitlines()) == 1 and message.startswith("loadproof-reference: payload 0: ")


def test_files_that_hold_no_payloads_or_no_model_are_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x05\xff\xff")
    code, message = run(models["free"], broken, tmp_path / "out")
    assert code == 1 and message.startswith(f"loadproof-reference: {broken}: not a whole file of tensors: ")
    code, message = run(models["free"], tmp_path / "none", tmp_path / "out")
    assert (code, message) == (1, f"loadproof-reference: {tmp_path / 'none'}: No such file or directory\n")
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    code, message = run(tmp_path / "model.onnx", write(tmp_path / "in", [floats(np.zeros(4))]), tmp_path / "out")
    assert code == 1 and "model.onnx does not load on CPU" in message.splitlines()[-1]
