"""A stack that stands already, without containers: the server has OVMS's surface and nothing more."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loadproof import environment, models
from loadproof.launch import http
from tests.ports import free_ports

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from loadproof.cli import main; main()"]
SHORT = ["--set", "measure.warmup_s=0.5", "--set", "measure.drain_s=2"]


@dataclass
class Stack:
    """Server, HAProxy and two workers that come again for each run, on ports of loopback."""

    repository: Path
    refused: Path
    server: subprocess.Popen[bytes]
    haproxy: subprocess.Popen[bytes]
    places: dict[str, str]
    closing: threading.Event = field(default_factory=threading.Event)

    def run(self, out: Path, *arguments: str, places: dict[str, str] | None = None) -> subprocess.Popen[str]:
        words = " ".join(f"{key}={value}" for key, value in {**self.places, **(places or {})}.items())
        command = [*COMMAND, "run", "plans/quick.toml", "--models", str(self.repository), "--out", str(out), *SHORT]
        env = {**os.environ, "LOADPROOF_STACK": words}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*command, *arguments], cwd=ROOT, env=env, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def work(self) -> None:
        """One worker after the other, as a container does it."""
        command = [*COMMAND, "worker", "--master", self.places["master"], "--token-file", self.places["token_file"]]
        while not self.closing.is_set():
            worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while worker.poll() is None:
                if self.closing.wait(0.2):
                    worker.kill()
            self.closing.wait(0.5)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("repository")
    models.get("ocr-cls", place)
    return place


@pytest.fixture
def stack(repository: Path, tmp_path: Path) -> Iterator[Stack]:
    names = ("server_grpc", "server_rest", "balancer_grpc", "balancer_rest", "balancer_metrics", "log", "master")
    places = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}
    config = repository / "config.json"
    config.write_text('{"model_config_list": [], "monitoring": {"metrics": {"enable": true}}}')
    refused = tmp_path / "refused"
    command = [sys.executable, "-m", "tests.ovms_surface", "--refused", str(refused), "--config_path", str(config)]
    command += ["--grpc_bind_address", "127.0.0.1", "--rest_bind_address", "127.0.0.1"]
    command += [
        "--port",
        places["server_grpc"].partition(":")[2],
        "--rest_port",
        places["server_rest"].partition(":")[2],
    ]
    command += ["--file_system_poll_wait_seconds", "0"]
    env = {
        "GRPC_BIND": places["balancer_grpc"],
        "REST_BIND": places["balancer_rest"],
        "STATS_BIND": places["balancer_metrics"],
        "SERVER_GRPC": places["server_grpc"],
        "SERVER_REST": places["server_rest"],
        "LOG_TARGET": places["log"],
    }
    program = environment.haproxy_program()
    assert program is not None
    log = (tmp_path / "log").open("wb")
    server = subprocess.Popen(command, cwd=ROOT, stderr=log, start_new_session=True)
    haproxy = subprocess.Popen(
        [program, "-db", "-f", "haproxy/haproxy.cfg"], cwd=ROOT, env=env, stderr=log, start_new_session=True
    )
    found = Stack(
        repository,
        refused,
        server,
        haproxy,
        {**places, "models": str(repository), "token_file": str(tmp_path / "token")},
    )
    workers = [threading.Thread(target=found.work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        yield found
    finally:
        found.closing.set()
        for process in (server, haproxy):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait(60)
        for worker in workers:
            worker.join()
        log.close()


def summary(out: Path) -> Any:
    return json.loads((out / "summary.json").read_text())


def test_a_sweep_reaches_a_server_with_nothing_but_ovms_s_surface(stack: Stack, tmp_path: Path) -> None:
    sweep = ["--set", "sweep.server.streams=[1, 2]", "--set", "measure.duration_s=2"]
    with stack.run(tmp_path / "out", *sweep) as process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    runs = summary(tmp_path / "out")["runs"]
    assert sorted(run["spec"]["server"]["streams"] for run in runs) == [1, 2]
    for run in runs:
        seen = run["witnesses"]
        assert seen["client"]["requests"] == seen["balancer"]["requests"] == seen["server"]["requests"] > 30
    page = http.get(f"http://{stack.places['server_rest']}/metrics")
    assert (
        page is not None
        and f'ovms_streams{{name="ocr-cls",version="1"}} {runs[-1]["spec"]["server"]["streams"]}' in page
    )
    assert stack.refused.read_text() == ""
    command = [*COMMAND, "run", "plans/quick.toml", "--models", str(stack.repository), *SHORT, *sweep]
    subprocess.run(
        [*command, "--out", str(tmp_path / "process")], cwd=ROOT, check=True, capture_output=True, timeout=240
    )
    assert [run["spec"] for run in summary(tmp_path / "process")["runs"]] == [run["spec"] for run in runs]


@pytest.mark.parametrize(("victim", "code"), [("server", "server_died"), ("haproxy", "balancer_died")])
def test_a_party_that_dies_is_noticed_without_its_process(stack: Stack, tmp_path: Path, victim: str, code: str) -> None:
    with stack.run(tmp_path / "out", "--set", "measure.duration_s=30") as process:
        assert process.stderr is not None
        assert any("measuring" in line for line in process.stderr)
        time.sleep(1)
        os.killpg(getattr(stack, victim).pid, signal.SIGKILL)
        killed_s = time.monotonic()
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 4, output + errors
    assert time.monotonic() - killed_s < 28
    run = summary(tmp_path / "out")["runs"][0]
    assert code in [reason["code"] for reason in run["reasons"]]
    assert run["requests"]["ok"] > 0


def test_settings_that_are_refused_are_told_and_taken_back(stack: Stack, tmp_path: Path) -> None:
    before = (stack.repository / "config.json").read_text()
    with stack.run(tmp_path / "out", "--set", "server.device=WARP") as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "refused the settings of [server]" in errors and "WARP" in errors
    assert (stack.repository / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("settings", "places", "told"),
    [
        ("sweep.server.streams=[1, 2]", {"models": "none"}, "server.streams: differ between the runs"),
        ("load.processes=4", {"workers": "localhost"}, "load.processes: found 4"),
        ("server.launch=docker", {}, 'server.launch: found "docker"; in a stack the server stands already'),
    ],
)
def test_what_a_stack_cannot_give_is_exit_2(
    repository: Path, tmp_path: Path, settings: str, places: dict[str, str], told: str
) -> None:
    names = ("server_grpc", "server_rest", "balancer_grpc", "balancer_rest", "balancer_metrics", "log", "master")
    given = {**{name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(7), strict=True)}, **places}
    words = " ".join(f"{key}={value}" for key, value in given.items())
    command = [*COMMAND, "run", "plans/quick.toml", "--models", str(repository), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--stack", words, "--set", settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr
    assert not (tmp_path / "out").exists()
