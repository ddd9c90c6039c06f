"""A server of two processes, as clients and operators see it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from loadproof_server.connections.sockets import listen, listen_together, new_socket
from loadproof_server.errors import StartError
from loadproof_server.workers.spec import WorkerSpec
from tests.ports import free_ports
from tests.server.small_models import Serve, scale_model, wait_until
from tests.server.test_main import slow_request
from tests.server.test_reload import Configured, Load, grpc_request, rest_body

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers want two CPUs")

TWO = ("--grpc_workers", "2", "--rest_workers", "2")
MANY = 32  # connections: that all are one worker's is one case of 2 ** 31
OWN_POOL = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one: y = 2 x, version 1; two: y = 3 x, version 2."""
    root = tmp_path_factory.mktemp("models")
    scale_model(root / "one", 2, "1")
    scale_model(root / "two", 3, "2")
    return root


@pytest.fixture(scope="module")
def served(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    """Without polling; each test writes its own configuration first."""
    directory = tmp_path_factory.mktemp("served")
    model = {"base_path": "one"}
    configured = Configured(repository, directory, "--file_system_poll_wait_seconds", "0", *TWO, m=model)
    yield configured
    configured.end()


def workers(process: Any) -> list[psutil.Process]:
    """In the order of their numbers."""
    found = {}
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            command = child.cmdline()
            if "loadproof_server.worker_main" in command:
                found[WorkerSpec.from_argument(command[command.index("loadproof_server.worker_main") + 1]).number] = (
                    child
                )
    return [found[number] for number in sorted(found)]


class Clients:
    """As many connections of each protocol."""

    def __init__(self, stack: ExitStack, configured: Configured) -> None:
        server = configured.server
        self.rest = [http.client.HTTPConnection(server.rest, timeout=60) for _ in range(MANY)]
        channels = [stack.enter_context(grpc.insecure_channel(server.grpc, OWN_POOL)) for _ in range(MANY)]
        self.grpc = [GRPCInferenceServiceStub(channel) for channel in channels]
        for connection in self.rest:
            stack.callback(connection.close)

    def versions(self) -> set[str]:
        """Of the model that all connections of both protocols get for one request each."""
        found = {stub.ModelInfer(grpc_request("m")).model_version for stub in self.grpc}
        return found | {self.ask(number, "POST", "/v2/models/m/infer")["model_version"] for number in range(MANY)}

    def ask(self, number: int, method: str, path: str) -> Any:
        self.rest[number].request(method, path, json.dumps(rest_body()) if method == "POST" else None)
        answer = self.rest[number].getresponse().read()
        return json.loads(answer) if path != "/metrics" else answer.decode()


def counters(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(ovms_\S+) (\S+)$", text, re.MULTILINE))


def test_both_workers_serve_both_protocols_and_any_of_them_reports_the_sum(served: Configured) -> None:
    served.write(m={"base_path": "one"})
    served.reload()
    server = served.server
    with ExitStack() as stack:
        clients = Clients(stack, served)
        assert clients.versions() == {"1"}
        for worker in workers(server.process):
            ports = {each.laddr.port for each in worker.net_connections("tcp") if each.status == "ESTABLISHED"}
            assert ports == {server.grpc_port, server.rest_port}
        for interface in ("gRPC", "REST"):
            labels = {"interface": interface, "name": "m", "method": "ModelInfer"}
            assert server.metric("ovms_requests_success", **labels) == MANY
        texts = {clients.ask(number, "GET", "/metrics") for number in range(MANY)}
        (found,) = [counters(text) for text in texts]
        assert found['ovms_inference_time_us_count{name="m",version="1"}'] == str(2 * MANY)
        assert found['ovms_inference_time_us_bucket{name="m",version="1",le="+Inf"}'] == str(2 * MANY)
        assert found['ovms_streams{name="m",version="1"}'] == "2"
        rows = [clients.ask(number, "GET", "/v2/models/m/stats")["model_stats"][0] for number in range(MANY)]
        assert {row["inference_count"] for row in rows} == {2 * MANY}
        statistics = clients.grpc[0].ModelStatistics(pb.ModelStatisticsRequest(name="m")).model_stats[0]
        assert statistics.inference_stats.success.count == 2 * MANY
        assert clients.ask(0, "GET", "/v2/models/none/stats")["error"].startswith("model 'none': unknown")


def test_cpus_streams_and_infer_requests_are_divided(served: Configured) -> None:
    served.write(m={"base_path": "one", "nireq": 6, "plugin_config": {"NUM_STREAMS": "2"}})
    assert served.reload()[0] == 201
    mine, others = [set(worker.cpu_affinity()) for worker in workers(served.server.process)]
    assert not mine & others
    assert mine | others == os.sched_getaffinity(0)
    found = re.findall(r"with (\d) infer requests and (\d) streams: loaded", served.log.read_text())
    assert found[-2:] == [("3", "1"), ("3", "1")]
    assert served.server.metric("ovms_streams", name="m", version="1") == 2


def test_a_reload_is_answered_when_all_workers_have_made_it_and_no_request_fails(served: Configured) -> None:
    served.write(m={"base_path": "one"})
    served.reload()
    failed = served.server.metric("ovms_requests_fail")
    with ExitStack() as stack:
        clients = Clients(stack, served)
        loads = [stack.enter_context(Load(served.server)) for _ in range(4)]
        for turn in range(10):
            served.write(m={"base_path": ("two", "one")[turn % 2]})
            status, answer = served.reload()
            assert status == 201
            states = {row["version"]: row["state"] for row in answer["m"]["model_version_status"]}
            assert states["12"[1 - turn % 2]] == "AVAILABLE"
            assert clients.versions() == {"21"[turn % 2]}
            answered = [load.least for load in loads]
            wait_until(lambda: all(load.least > before for load, before in zip(loads, answered, strict=True)))  # noqa: B023
    assert served.reload()[0] == 200
    assert served.server.metric("ovms_requests_fail") == failed
    assert served.server.metric("ovms_current_requests") == 0


def test_what_a_reload_finds_wrong_is_said_once(served: Configured) -> None:
    served.put("{")
    status, answer = served.reload()
    assert (status, answer["error"].count("broken JSON")) == (412, 1)
    assert "broken JSON" in str(served.ask("GET", "/v1/config")[1]["m"])


Start = Callable[..., tuple[subprocess.Popen[str], list[int]]]


@pytest.fixture
def start(repository: Path) -> Iterator[Start]:
    """Starts a server whose log goes to a file; none outlives its test, whatever happens."""
    started: list[subprocess.Popen[str]] = []

    def begin(log: Path, *flags: str) -> tuple[subprocess.Popen[str], list[int]]:
        ports = free_ports(2)
        command = [
            sys.executable,
            "-m",
            "loadproof_server.main",
            "--model_name",
            "m",
            "--model_path",
            str(repository / "one"),
        ]
        command += ["--port", str(ports[0]), "--rest_port", str(ports[1]), *flags]
        with log.open("w") as sink:
            started.append(subprocess.Popen(command, stderr=sink, text=True))
        return started[-1], ports

    yield begin
    for process in started:
        process.kill()
        process.wait()


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_nobody_is_served_before_all_are_ready_and_nothing_outlives_a_killed_server(
    start: Start, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    process, ports = start(log, *TWO)
    wait_until(lambda: len(workers(process)) == 2)
    waited_for = workers(process)[1]
    waited_for.suspend()
    wait_until(lambda: "worker 1: m version 1" in log.read_text())
    assert is_refused(ports[0]) and is_refused(ports[1])
    waited_for.resume()
    wait_until(lambda: not is_refused(ports[0]) and not is_refused(ports[1]))
    connection = http.client.HTTPConnection("127.0.0.1", ports[1])
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 200
    connection.close()
    left = workers(process)
    process.kill()
    process.wait()
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert is_refused(ports[0])


def test_a_worker_that_dies_ends_the_server_loudly(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process, ports = start(log, "--grpc_workers", "2")
    wait_until(lambda: log.read_text().count(": serving m") == 2)
    victim, other = workers(process)
    listening = [{each.laddr.port for each in worker.net_connections("tcp")} for worker in (victim, other)]
    assert listening == [set(ports), {ports[0]}]  # one REST worker, which is the first
    victim.kill()
    assert process.wait(timeout=60) == 1
    assert not other.is_running()
    message = f"worker 1 (process {victim.pid}) was killed by SIGKILL: the server ends with it"
    assert f"CRITICAL loadproof-server supervisor: {message}" in log.read_text()
    assert log.read_text().splitlines()[-1] == f"loadproof-server: {message}"
    assert is_refused(ports[0])


def test_a_signal_lets_all_workers_answer_what_they_have_and_exits_0(serve: Serve) -> None:
    server = serve("slow", "--nireq", "2", *TWO)
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        channels = [stack.enter_context(grpc.insecure_channel(server.grpc, OWN_POOL)) for _ in range(4)]
        answers = [pool.submit(GRPCInferenceServiceStub(channel).ModelInfer, slow_request()) for channel in channels]
        wait_until(lambda: server.metric("ovms_current_requests") == 4)
        server.process.send_signal(signal.SIGTERM)
        assert {len(answer.result(timeout=60).raw_output_contents[0]) for answer in answers} == {2048}
    assert server.process.wait(timeout=60) == 0


def test_a_signal_while_models_load_ends_the_server_too(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process, _ = start(log, *TWO)
    wait_until(lambda: len(workers(process)) == 2)
    process.terminate()
    assert (process.wait(timeout=60), "Traceback" in log.read_text()) == (0, False)


def outcome(*flags: str) -> tuple[int, list[str]]:
    """Exit code and the lines that are no log, of a server that does not start."""
    command = [sys.executable, "-m", "loadproof_server.main", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("loadproof-server: ")]


def test_what_keeps_all_workers_from_starting_is_one_line(served: Configured, repository: Path, tmp_path: Path) -> None:
    port = str(free_ports(1)[0])
    (tmp_path / "config.json").write_text("{")
    config = ("--config_path", str(tmp_path / "config.json"))
    code, (line,) = outcome(*config, "--port", port, "--grpc_workers", "2")
    assert code == 2 and "broken JSON" in line
    busy = str(served.server.grpc_port)
    code, (line,) = outcome(
        *("--model_name", "m", "--model_path", str(repository / "one"), "--port", busy, "--grpc_workers", "2")
    )
    message = f"loadproof-server: --port: 127.0.0.1:{busy} cannot be bound (Address already in use): choose a free port"
    assert (code, line) == (1, message)


def test_workers_share_a_port_that_nobody_else_gets() -> None:
    port = free_ports(1)[0]
    with new_socket("127.0.0.1") as one, new_socket("127.0.0.1") as two, new_socket("127.0.0.1") as other:
        listen_together([one, two], "127.0.0.1", port, "--port")
        with pytest.raises(StartError, match="cannot be bound"):
            listen_together([other], "127.0.0.1", port, "--port")
        with pytest.raises(StartError, match="cannot be bound"):
            listen("127.0.0.1", port)
        for listener in (one, two):
            listener.setblocking(False)
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(MANY)]
        for listener in (one, two):
            listener.accept()[0].close()
        for client in clients:
            client.close()
