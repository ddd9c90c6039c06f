"""What clients of a running server see of its configuration file and of its reloads."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.ports import free_ports
from tests.server.small_models import Server, deep_model, scale_model, wait_ready, wait_until

FACTORS = {"1": 2.0, "2": 3.0}  # by version


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one: y = 2 x, version 1; two: y = 3 x, version 2; deep: a second or so to compile, 30 MB."""
    root = tmp_path_factory.mktemp("models")
    scale_model(root / "one", FACTORS["1"], "1")
    scale_model(root / "two", FACTORS["2"], "2")
    deep_model(root / "deep", 200)
    return root


class Configured:
    """A server on a configuration file."""

    def __init__(self, repository: Path, directory: Path, *flags: str, **models: dict[str, Any]) -> None:
        self.repository = repository
        self.path = directory / "config.json"
        self.write(**models)
        grpc_port, rest_port = free_ports(2)
        command = [sys.executable, "-m", "loadproof_server.main", "--config_path", str(self.path), *flags]
        command += ["--port", str(grpc_port), "--rest_port", str(rest_port)]
        self.log = directory / "log"
        with self.log.open("w") as log:
            process = subprocess.Popen(command, stderr=log, text=True)
        self.server = Server(process, grpc_port, rest_port)
        wait_ready(self.server)

    def write(self, **models: dict[str, Any]) -> None:
        """The configuration; a model's `base_path` is a name in the repository."""
        entries = [
            {"config": {"name": name, **keys, "base_path": str(self.repository / keys["base_path"])}}
            for name, keys in models.items()
        ]
        self.put(json.dumps({"model_config_list": entries, "monitoring": {"metrics": {"enable": True}}}))

    def put(self, text: str) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.path)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.server.rest, timeout=60)
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def reload(self) -> tuple[int, Any]:
        return self.ask("POST", "/v1/config/reload")

    def state(self, name: str) -> list[str]:
        status, answer = self.ask("GET", "/v1/config")
        assert status == 200
        return [row["state"] for row in answer[name]["model_version_status"]]

    def end(self) -> None:
        if self.server.process.poll() is None:
            self.server.process.send_signal(signal.SIGTERM)
        assert (self.server.process.wait(timeout=60), "Traceback" in self.log.read_text()) == (0, False)


@pytest.fixture(scope="module")
def served(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    """Without polling; each test writes its own configuration first."""
    configured = Configured(
        repository, tmp_path_factory.mktemp("served"), "--file_system_poll_wait_seconds", "0", m={"base_path": "one"}
    )
    yield configured
    configured.end()


def row(version: str, state: str = "AVAILABLE", code: str = "OK", message: str = "OK") -> dict[str, Any]:
    return {"version": version, "state": state, "status": {"error_code": code, "error_message": message}}


def rest_body(value: float = 1) -> Any:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}]}


def grpc_request(name: str, value: float = 1) -> Any:
    request = pb.ModelInferRequest(model_name=name, raw_input_contents=[np.full(4, value, np.float32).tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return request


def test_several_models_are_served_and_reported_as_ovms_does(served: Configured) -> None:
    served.write(m={"base_path": "one"}, n={"base_path": "two", "nireq": 3, "plugin_config": {"NUM_STREAMS": "2"}})
    status, answer = served.reload()
    assert status == 201
    assert answer == {"m": {"model_version_status": [row("1")]}, "n": {"model_version_status": [row("2")]}}
    assert served.reload() == (200, answer)
    assert served.ask("GET", "/v1/config") == (200, answer)
    for name, version in (("m", "1"), ("n", "2")):
        found, infered = served.ask("POST", f"/v2/models/{name}/infer", rest_body())
        assert (found, infered["model_version"], infered["outputs"][0]["data"]) == (
            200,
            version,
            [FACTORS[version]] * 4,
        )
    assert served.server.metric("ovms_streams", name="n", version="2") == 2
    assert served.ask("GET", "/v1/config/reload")[0] == 405
    assert served.ask("POST", "/v1/config")[0] == 405


def test_what_is_broken_is_reported_and_the_old_one_serves_on(served: Configured) -> None:
    served.write(m={"base_path": "one"})
    served.reload()
    served.put('{"model_config_list": [')
    message = f"--config_path: {served.path}: broken JSON (EOF while parsing a list at line 1 column 23); mend it"
    assert served.reload() == (412, {"error": message})
    assert served.ask("GET", "/v1/config")[1]["m"]["model_version_status"] == [
        row("1", "AVAILABLE", "UNKNOWN", message)
    ]
    served.write(m={"base_path": "one", "plugin_config": {"NUM_STREAMS": "many"}})
    status, answer = served.reload()
    assert status == 412
    assert answer["error"].startswith("model m: ") and "number of streams" in answer["error"]
    assert answer["error"] in served.log.read_text()
    assert served.ask("GET", "/v2/health/ready")[0] == served.ask("GET", "/v2/models/m/ready")[0] == 200
    assert served.ask("POST", "/v2/models/m/infer", rest_body())[1]["outputs"][0]["data"] == [FACTORS["1"]] * 4
    served.write(m={"base_path": "one"})
    assert served.reload() == (200, {**served.ask("GET", "/v1/config")[1], "m": {"model_version_status": [row("1")]}})


class Load:
    """Clients of both protocols that ask one model without a pause; an answer is right for the version it names."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self.answers = {"gRPC": 0, "REST": 0}
        self.versions: set[str] = set()
        self._clients: list[Future[None]] = []

    def __enter__(self) -> Load:
        self._clients = [self._pool.submit(client) for client in (self._grpc, self._rest)]
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()

    @property
    def least(self) -> int:
        """Answers of the protocol that has fewer; raises what a client met."""
        for client in self._clients:
            if client.done():
                client.result()
        return min(self.answers.values())

    def _grpc(self) -> None:
        with grpc.insecure_channel(self._server.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not self._ended.is_set():
                value = float(self.answers["gRPC"] % 1000)
                answer = stub.ModelInfer(grpc_request("m", value))
                found = np.frombuffer(answer.raw_output_contents[0], np.float32)
                self._check("gRPC", answer.model_version, value, found.tolist())

    def _rest(self) -> None:
        connection = http.client.HTTPConnection(self._server.rest, timeout=60)
        while not self._ended.is_set():
            value = float(self.answers["REST"] % 1000)
            connection.request("POST", "/v2/models/m/infer", json.dumps(rest_body(value)))
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status == 200, answer
            self._check("REST", answer["model_version"], value, answer["outputs"][0]["data"])
        connection.close()

    def _check(self, protocol: str, version: str, value: float, found: list[float]) -> None:
        assert found == [FACTORS[version] * value] * 4
        self.versions.add(version)
        self.answers[protocol] += 1


def test_of_100_reloads_under_load_no_request_fails_and_all_are_counted(served: Configured) -> None:
    served.write(m={"base_path": "one"})
    served.reload()
    before = served.server.metric("ovms_requests_success", name="m")
    with Load(served.server) as load:
        for turn in range(100):
            served.write(m={"base_path": ("two", "one")[turn % 2], "plugin_config": {"NUM_STREAMS": 1 + turn % 3}})
            assert served.reload()[0] == 201
            answered = load.least
            wait_until(lambda: load.least > answered)  # noqa: B023
    assert load.versions == {"1", "2"}
    assert served.server.metric("ovms_requests_success", name="m") - before == sum(load.answers.values())
    assert served.server.metric("ovms_requests_fail") == 0
    assert served.server.metric("ovms_current_requests") == 0


def test_answers_flow_while_a_model_compiles(served: Configured) -> None:
    served.write(m={"base_path": "one"})
    served.reload()
    with Load(served.server) as load:
        wait_until(lambda: load.least > 0)
        served.write(m={"base_path": "one"}, deep={"base_path": "deep"})
        answered = load.least
        assert served.reload()[0] == 201
        assert load.least > answered + 10
    assert served.state("deep") == ["AVAILABLE"]


def test_engines_that_were_replaced_are_freed(served: Configured) -> None:
    """Each turn loads 30 MB of weights: ten of them that stayed would be 300 MB."""
    memory = psutil.Process(served.server.process.pid).memory_info
    sizes = []
    for turn in range(12):
        served.write(m={"base_path": "one"}, deep={"base_path": "deep", "nireq": 1 + turn % 2})
        assert served.reload()[0] in (200, 201)
        sizes.append(memory().rss)
    assert max(sizes[2:]) - max(sizes[:2]) < 150e6, sizes
    threads = psutil.Process(served.server.process.pid).num_threads()
    assert threads < 40


def test_polling_finds_a_changed_file_and_a_new_version(repository: Path, tmp_path: Path) -> None:
    scale_model(tmp_path / "models" / "p", 2)
    configured = Configured(tmp_path / "models", tmp_path, p={"base_path": "p"})
    scale_model(tmp_path / "models" / "p", 5, "2")
    wait_until(lambda: configured.state("p")[1:] == ["AVAILABLE"])
    assert configured.ask("POST", "/v2/models/p/infer", rest_body())[1]["outputs"][0]["data"] == [5] * 4
    configured.repository = repository
    configured.write(n={"base_path": "two"})
    wait_until(lambda: configured.ask("GET", "/v2/models/n")[0] == 200 and "AVAILABLE" not in configured.state("p"))
    assert configured.ask("POST", "/v2/models/p/infer", rest_body())[0] == 404
    configured.put("{")
    wait_until(lambda: "broken JSON" in str(configured.ask("GET", "/v1/config")[1]))
    configured.end()


def test_a_signal_during_a_reload_drains_and_exits_0(repository: Path, tmp_path: Path) -> None:
    configured = Configured(repository, tmp_path, "--file_system_poll_wait_seconds", "0", m={"base_path": "one"})
    with ThreadPoolExecutor(1) as pool:
        configured.write(deep={"base_path": "deep"}, m={"base_path": "two"})
        reload = pool.submit(configured.reload)
        wait_until(lambda: "deep" in configured.ask("GET", "/v1/config")[1])
        configured.server.process.send_signal(signal.SIGTERM)
        status, answer = reload.result()  # 201 where the signal came too late to stop it
        assert (status, answer) == (412, {"error": "the server is stopping"}) or status == 201
    configured.end()


def start(path: Path, *flags: str) -> tuple[int, str]:
    """Exit code and last line of a server that does not start."""
    command = [sys.executable, "-m", "loadproof_server.main", "--config_path", str(path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_server_does_not_start_on_a_broken_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    rest = ("--rest_port", str(free_ports(1)[0]))
    path.write_text('{"model_config_list": [], "monitoring": {"metrics": {"enable": true}}}')
    assert start(path, "--port", rest[1]) == (
        2,
        "loadproof-server: monitoring.metrics.enable: /metrics is served on the REST port; give --rest_port",
    )
    path.write_text('{"model_config_list": [')
    code, message = start(path, *rest)
    assert (code, message.partition("broken")[0]) == (2, f"loadproof-server: --config_path: {path}: ")


def test_a_server_starts_with_the_models_that_load_and_reports_the_others(tmp_path: Path) -> None:
    models = tmp_path / "models"
    scale_model(models / "good", 2)
    (models / "good" / "2").mkdir()
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.onnx").write_text("x")
    bad, none = {"base_path": "broken"}, {"base_path": "none"}
    configured = Configured(models, tmp_path, bad=bad, good={"base_path": "good"}, none=none)
    wait_until(lambda: configured.ask("GET", "/v2/health/ready")[0] == 200)
    assert configured.ask("POST", "/v2/models/good/infer", rest_body())[1]["outputs"][0]["data"] == [2] * 4
    for name in ("bad", "none"):
        assert configured.ask("GET", f"/v2/models/{name}/ready")[0] == 404
    status = configured.ask("GET", "/v1/config")[1]
    rows = {
        name: [(row["version"], row["state"], row["status"]["error_code"]) for row in model["model_version_status"]]
        for name, model in status.items()
    }
    assert rows == {
        "bad": [("1", "LOADING", "UNKNOWN")],
        "good": [("1", "AVAILABLE", "OK"), ("2", "LOADING", "UNKNOWN")],
        "none": [("0", "LOADING", "UNKNOWN")],
    }
    assert "model.onnx does not load on CPU" in status["bad"]["model_version_status"][0]["status"]["error_message"]
    assert configured.log.read_text().count("ERROR") == 3
    scale_model(models / "new", 7)
    (models / "new" / "1" / "model.bin").replace(models / "good" / "2" / "model.bin")  # the rest of version 2
    (models / "new" / "1" / "model.xml").replace(models / "good" / "2" / "model.xml")
    wait_until(lambda: configured.state("good")[-1] == "AVAILABLE")
    assert configured.ask("POST", "/v2/models/good/infer", rest_body())[1]["outputs"][0]["data"] == [7] * 4
    configured.end()


def test_a_single_model_has_its_status_too(repository: Path, tmp_path: Path) -> None:
    grpc_port, rest_port = free_ports(2)
    command = [
        sys.executable,
        "-m",
        "loadproof_server.main",
        "--model_name",
        "m",
        "--model_path",
        str(repository / "one"),
    ]
    log = tmp_path / "log"
    with log.open("w") as errors:
        flags = ["--port", str(grpc_port), "--rest_port", str(rest_port)]
        process = subprocess.Popen([*command, *flags], stderr=errors, text=True)
    wait_ready(Server(process, grpc_port, rest_port))
    connection = http.client.HTTPConnection("127.0.0.1", rest_port)
    for method, path in (("GET", "/v1/config"), ("POST", "/v1/config/reload")):
        connection.request(method, path)
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (200, {"m": {"model_version_status": [row("1")]}})
    connection.close()
    process.terminate()
    assert process.wait(timeout=60) == 0
