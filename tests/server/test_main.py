from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from loadproof_server.connections.sockets import listen
from loadproof_server.errors import StartError
from tests.ports import free_ports
from tests.server.small_models import Serve, wait_until


def run(*flags: str) -> tuple[int, str]:
    """Exit code and standard error of a server that does not start."""
    command = [sys.executable, "-m", "loadproof_server.main", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def flags(model: Path, port: int = 0, rest_port: int = 0) -> list[str]:
    return ["--model_name", "m", "--model_path", str(model), "--port", str(port), "--rest_port", str(rest_port)]


def test_wrong_flags_are_one_line_and_exit_code_2() -> None:
    code, message = run("--model_name", "m")
    assert code == 2
    assert message == (
        "loadproof-server: --model_path: missing; give --model_name and --model_path, or --config_path (see --help)\n"
    )


def test_a_model_that_does_not_load_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"no model")
    code, message = run(*flags(tmp_path, port=free_ports(1)[0]))
    assert code == 1
    assert re.fullmatch(r"loadproof-server: .*model\.onnx does not load on CPU: .*", message.splitlines()[-1])


@pytest.mark.parametrize("flag", ["--port", "--rest_port"])
def test_a_busy_port_is_one_line_that_names_it_and_exit_code_1(models: dict[str, Path], flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, message = run("--model_name", "m", "--model_path", str(models["free"]), flag, str(port))
    assert code == 1
    assert f"loadproof-server: {flag}: 127.0.0.1:{port} cannot be bound" in message
    assert message.rstrip().endswith("choose a free port")
    assert "Traceback" not in message


def test_two_servers_that_start_at_once_do_not_both_get_the_port() -> None:
    port = free_ports(1)[0]
    with listen("127.0.0.1", port), pytest.raises(StartError, match=f"^--rest_port: 127.0.0.1:{port} cannot be bound"):
        listen("127.0.0.1", port)


def slow_request() -> Any:
    request = pb.ModelInferRequest(model_name="slow", raw_input_contents=[bytes(2048)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 512])
    return request


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_requests_in_flight_be_answered_and_exits_0(serve: Serve, number: signal.Signals) -> None:
    server = serve("slow", "--nireq", "1")
    rest = ["POST /v2/models/slow/infer HTTP/1.1", "Host: h", "Content-Type: application/json"]
    body = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,512],"data":[' + ",".join(["1"] * 512) + "]}]}"
    with (
        grpc.insecure_channel(server.grpc) as channel,
        socket.create_connection(("127.0.0.1", server.rest_port)) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(GRPCInferenceServiceStub(channel).ModelInfer, slow_request())
        client.sendall("\r\n".join([*rest, f"Content-Length: {len(body)}", "", body]).encode())
        wait_until(lambda: server.metric("ovms_current_requests") == 2)
        server.process.send_signal(number)
        assert len(answer.result(timeout=60).raw_output_contents[0]) == 2048
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(timeout=60) == 0


def test_one_protocol_alone_is_served(models: dict[str, Path]) -> None:
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "loadproof_server.main", *flags(models["free"], port=port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        loaded, serving = process.stderr.readline(), process.stderr.readline()
        assert re.search(r"m version 1 on CPU with 1 infer requests and 1 streams: loaded in 0\.\d+ s$", loaded)
        assert re.search(rf"serving m version 1 on CPU .* gRPC 127\.0\.0\.1:{port}$", serving)
        process.terminate()
        assert process.wait(timeout=60) == 0
