from __future__ import annotations

import http.client
import os
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
        assert re.search(
            r"m version 1 on CPU with 1 infer requests and 1 streams: loaded in 0\.\d+ s; in use: ", loaded
        )
        assert re.search(r"EXECUTION_DEVICES=CPU, INFERENCE_PRECISION_HINT=\w+, NUM_STREAMS=1, INFERENCE_NUM", loaded)
        assert re.search(rf"serving m version 1 on CPU .* gRPC 127\.0\.0\.1:{port}$", serving)
        process.terminate()
        assert process.wait(timeout=60) == 0


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("workers", [(), ("--rest_workers", "2", "--grpc_workers", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize(
    ("addresses", "hosts"),
    [("127.0.0.1,::1", ("127.0.0.1", "::1")), ("::,0.0.0.0", ("127.0.0.1", "::1")), ("::", ("127.0.0.1", "::1"))],
)
def test_each_address_is_served(
    models: dict[str, Path], workers: tuple[str, ...], addresses: str, hosts: tuple[str, ...]
) -> None:
    port, rest_port = free_ports(2)
    command = [sys.executable, "-m", "loadproof_server.main", *flags(models["free"], port, rest_port), *workers]
    command += ["--rest_bind_address", addresses, "--grpc_bind_address", addresses]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for host in hosts:
                wait_until(lambda: process.poll() is None and is_ready(host, rest_port))  # noqa: B023
                with grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") as channel:
                    assert GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest()).ready
        finally:
            process.terminate()
            log = process.communicate(timeout=60)[1]
        assert process.returncode == 0, log
        for host in addresses.split(","):
            shown = f"[{host}]" if ":" in host else host
            assert f"gRPC {shown}:{port}" in log and f"REST {shown}:{rest_port}" in log


def is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_a_busy_port_of_the_second_address_is_named_and_one_of_another_machine_too(models: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        code, message = run(*flags(models["free"], rest_port=port), "--rest_bind_address", "127.0.0.1,127.0.0.2")
    assert code == 1
    assert f"--rest_port: 127.0.0.2:{port} cannot be bound (Address already in use): choose a free port" in message
    code, message = run(*flags(models["free"], rest_port=port), "--rest_bind_address", "192.0.2.1")
    assert code == 1
    assert "cannot be bound (Cannot assign requested address): choose an address of this machine" in message


def test_more_workers_than_cpus_start_one_for_each_and_say_so(models: dict[str, Path]) -> None:
    rest_port = free_ports(1)[0]
    command = [sys.executable, "-m", "loadproof_server.main", *flags(models["free"], rest_port=rest_port)]
    with subprocess.Popen([*command, "--rest_workers", "999"], stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: process.poll() is None and is_ready("127.0.0.1", rest_port))
        process.terminate()
        log = process.communicate(timeout=60)[1]
    cpus = len(os.sched_getaffinity(0))
    assert process.returncode == 0
    assert log.count(f": --rest_workers: 999 are more than there are CPUs; {cpus}") == 1
