"""The payload maker as a program, against a real server with a real (tiny) model: sum = a + b, sizes open."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from loadproof_clients.records import RECORD, status_name
from loadproof_clients.spec import Load, LoadSpec, Measure
from loadproof_clients.tensors import files
from loadproof_clients.tensors.tensor import to_array
from tests.ports import free_ports

SIZED = {"a": [1, 3], "b": [1, 3]}


class Server(NamedTuple):
    """Addresses by protocol."""

    grpc: str
    rest: str


def save_sum(path: Path) -> None:
    sizes = ["n", "k"]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in ("a", "b", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["sum"])], "sum", tensors[:2], tensors[2:])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("model")
    save_sum(place / "sum.onnx")
    grpc_port, rest_port = free_ports(2)
    command = [
        sys.executable,
        "-m",
        "loadproof_server.main",
        "--model_name",
        "sum",
        "--model_path",
        str(place / "sum.onnx"),
    ]
    command += ["--port", str(grpc_port), "--rest_port", str(rest_port)]
    with (place / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until = time.monotonic() + 60
            while not is_ready(f"http://127.0.0.1:{rest_port}/v2/health/ready"):
                assert process.poll() is None, (place / "log").read_text()
                assert time.monotonic() < until, (place / "log").read_text()
                time.sleep(0.1)
            yield Server(f"127.0.0.1:{grpc_port}", f"127.0.0.1:{rest_port}")
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def prepare(
    tmp_path: Path, url: str, *, answers: bool = False, model: str = "sum", **load: Any
) -> subprocess.CompletedProcess[str]:
    spec = LoadSpec(run="r1", url=url, model=model, load=Load(payloads=4, **load), measure=Measure())
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "loadproof_clients.prepare", "--spec", str(tmp_path / "spec.json")]
    command += ["--payloads", str(tmp_path / "p.bin")]
    if answers:
        command += ["--answers", str(tmp_path / "a.bin"), "--records", str(tmp_path / "r.rec")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_server_s_answers_and_their_records_stand_beside_the_payloads(
    tmp_path: Path, server: Server, protocol: str
) -> None:
    before = time.monotonic_ns()
    done = prepare(tmp_path, getattr(server, protocol), answers=True, protocol=protocol, shapes=SIZED)
    after = time.monotonic_ns()
    assert (done.returncode, done.stderr) == (0, "")
    payloads, answers = files.read(tmp_path / "p.bin"), files.read(tmp_path / "a.bin")
    assert len(payloads) == len(answers) == 4
    for (a, b), (total,) in zip(payloads, answers, strict=True):
        assert total[:3] == ("sum", "FP32", (1, 3))
        assert np.array_equal(to_array(total), to_array(a) + to_array(b))
    rows = np.fromfile(tmp_path / "r.rec", RECORD)
    assert rows["sequence"].tolist() == rows["payload"].tolist() == [0, 1, 2, 3]
    assert not rows["status"].any()
    assert not rows["phase"].any()
    assert np.array_equal(rows["planned_ns"], rows["sent_ns"])
    times = np.stack([rows["sent_ns"], rows["received_ns"]], axis=1).reshape(-1)
    assert (np.diff(times) > 0).all()
    assert before < times[0]
    assert times[-1] < after


def test_both_protocols_make_the_same_payloads_and_ask_for_no_inference(tmp_path: Path, server: Server) -> None:
    made = []
    for protocol in ("grpc", "rest"):
        assert prepare(tmp_path, getattr(server, protocol), protocol=protocol, shapes=SIZED).returncode == 0
        made.append((tmp_path / "p.bin").read_bytes())
    assert made[0] == made[1]
    assert not (tmp_path / "a.bin").exists()


def test_each_mistake_is_a_line_that_names_the_key(tmp_path: Path, server: Server) -> None:
    done = prepare(tmp_path, server.grpc, shapes={"a": [1, 3], "c": [2]}, ranges={"d": (0, 1)})
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'loadproof: load.shapes: "c" is no input of the model; it has a FP32 [-1, -1], b FP32 [-1, -1]',
        "loadproof: load.shapes: b FP32 [-1, -1] leaves sizes open: say them, as in shapes = {b = [1, 16]}",
        'loadproof: load.ranges: "d" is no input of the model; it has a FP32 [-1, -1], b FP32 [-1, -1]',
    ]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_reference_that_the_server_refuses_is_recorded_and_ends_it(
    tmp_path: Path, server: Server, protocol: str
) -> None:
    unequal = {"a": [1, 3], "b": [1, 4]}  # the metadata allows it, the addition does not
    done = prepare(tmp_path, getattr(server, protocol), answers=True, protocol=protocol, shapes=unequal)
    assert done.returncode == 4
    assert "reference request 0 failed" in done.stderr
    (row,) = np.fromfile(tmp_path / "r.rec", RECORD)
    assert row["received_ns"] > row["sent_ns"] > 0
    assert status_name(row["status"]) != "ok"


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_server_that_cannot_be_asked_is_one_line(tmp_path: Path, server: Server, protocol: str) -> None:
    unknown = prepare(tmp_path, getattr(server, protocol), protocol=protocol, model="nothing")
    assert unknown.returncode == 1
    assert len(unknown.stderr.splitlines()) == 1
    assert "cannot learn the inputs of the model nothing" in unknown.stderr
    closed = prepare(tmp_path, f"127.0.0.1:{free_ports(1)[0]}", protocol=protocol)
    assert closed.returncode == 1
    assert "refused" in closed.stderr.lower()
