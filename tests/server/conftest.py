"""The models and the real server processes that the tests share."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from tests.ports import free_ports
from tests.server.small_models import (
    KINDS,
    Serve,
    Server,
    kinds_model,
    matmul_models,
    mixed_model,
    parameter,
    save,
    sum_model,
    wait_ready,
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """kinds: every datatype; typed: those with typed contents; free: y = relu(x), any shape of two dimensions;
    words: y = x, any number of strings; mixed: tensors that may have no elements; sum: a model with a state; strict:
    y = x as [2, 32], which OpenVINO refuses only when it runs; slow: most of a second on two cores for an input of 2
    KiB; brief: the same in a twentieth of the time; photo: y = version * x as [1, 3, 4, 5], versions 1, 2 and 7."""
    root = tmp_path_factory.mktemp("models")
    free = parameter("x", ov.Type.f32, [-1, -1])
    strict = parameter("x", ov.Type.f32, [-1, -1])
    words = parameter("x", ov.Type.string, [-1])
    for version in (1, 2, 7):
        photo = parameter("x", ov.Type.f32, [1, 3, 4, 5])
        scaled = op.multiply(photo, op.constant(np.float32(version)))
        save(root / "photo", [photo], {"y": scaled}, str(version))
    matmul_models(root / "slow", root / "brief")
    return {
        "kinds": kinds_model(root / "kinds", list(KINDS)),
        "typed": kinds_model(root / "typed", [kind for kind in KINDS if kind not in ("FP16", "BF16")]),
        "free": save(root / "free", [free], {"y": op.relu(free)}),
        "mixed": mixed_model(root / "mixed"),
        "sum": sum_model(root / "sum"),
        "words": save(root / "words", [words], {"y": op.reshape(words, [-1], special_zero=False)}),
        "strict": save(root / "strict", [strict], {"y": op.reshape(strict, [2, 32], special_zero=False)}),
        "slow": root / "slow",
        "brief": root / "brief",
        "photo": root / "photo",
    }


@pytest.fixture(scope="session")
def serve(models: dict[str, Path]) -> Iterator[Serve]:
    """Starts a server of one of the models; all are ended with the session, and must then exit 0."""
    servers: list[Server] = []

    def start(model: str, *flags: str) -> Server:
        grpc_port, rest_port = free_ports(2)
        command = [
            sys.executable,
            "-m",
            "loadproof_server.main",
            "--model_name",
            model,
            "--model_path",
            str(models[model]),
        ]
        command += ["--port", str(grpc_port), "--rest_port", str(rest_port), "--metrics_enable", *flags]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        servers.append(Server(process, grpc_port, rest_port))
        wait_ready(servers[-1])
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
    outcomes = []
    for server in servers:
        log = server.process.communicate(timeout=60)[1]
        outcomes.append((server.process.returncode, "Traceback" in log, log))
    assert all(code == 0 and not failed for code, failed, _ in outcomes), outcomes


@pytest.fixture(scope="session")
def kinds(serve: Serve) -> Server:
    return serve("kinds")


@pytest.fixture(scope="session")
def typed(serve: Serve) -> Server:
    return serve("typed")


@pytest.fixture(scope="session")
def free(serve: Serve) -> Server:
    return serve("free", "--nireq", "4")
