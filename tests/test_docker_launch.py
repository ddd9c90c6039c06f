"""`server.launch = "docker"`: the server in a container of its own, on this machine's engine and on one by TCP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pyarrow.parquet as pq
import pytest

from loadproof import models
from tests.containers import lacking
from tests.ports import free_ports

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from loadproof.cli import main; main()"]
SHORT = ["--set", "measure.warmup_s=0.5", "--set", "measure.drain_s=2"]
LONG = "measure.duration_s=60"
SOCKET = "/var/run/docker.sock"
GONE_TIMEOUT_S = 60


MISSING = lacking()
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=f"{MISSING}"),
    pytest.mark.timeout(900),  # the first time, the image is built
]


@pytest.fixture(scope="module")
def image() -> str:
    """The id of the server's image: several checkouts may build at once. Docker's cache makes the second time short."""
    subprocess.run([ROOT / "scripts/base-image"], check=True, capture_output=True)
    index = [f"--build-arg=PIP_INDEX_URL={url}"] if (url := os.environ.get("PIP_INDEX_URL")) else []
    command = ["docker", "build", "-q", "-t", "loadproof-server:tests", "-f", "server/Dockerfile", *index, "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("repository")
    models.get("ocr-cls", place)
    return place


@dataclass
class Bench:
    """A campaign in a directory whose name no other has: it is the label of its containers."""

    out: Path
    image: str
    repository: Path
    client: Any

    def start(self, *settings: str, out: Path | None = None) -> subprocess.Popen[str]:
        own = ["server.launch=docker", f'server.image="{self.image}"', *settings]
        command = [*COMMAND, "run", "plans/docker.toml", "--models", str(self.repository), *SHORT]
        command += ["--out", str(out or self.out), *(word for setting in own for word in ("--set", setting))]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, **pipes)

    def run(self, *settings: str) -> tuple[int, str]:
        with self.start(*settings) as process:
            output, errors = process.communicate(timeout=240)
        return process.returncode, output + errors

    def runs(self) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = json.loads((self.out / "summary.json").read_text())["runs"]
        return runs

    def containers(self) -> list[Any]:
        filters = {"label": f"loadproof.campaign={self.out.name}"}
        return list(self.client.containers.list(all=True, filters=filters, ignore_removed=True))

    def measuring(self, process: subprocess.Popen[str]) -> Any:
        """The container, once the load has run for a second."""
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "measuring" in line:
                time.sleep(1)
                return self.containers()[0]
        raise AssertionError("".join(said))

    def is_gone(self) -> bool:
        """Whether no container is left, after some time."""
        until_s = time.monotonic() + GONE_TIMEOUT_S
        while self.containers() and time.monotonic() < until_s:
            time.sleep(0.2)
        return not self.containers()


@pytest.fixture
def bench(image: str, repository: Path, tmp_path: Path) -> Iterator[Bench]:
    with contextlib.closing(docker.from_env()) as client:
        found = Bench(tmp_path / f"docker-{uuid.uuid4().hex}", image, repository, client)
        yield found
        left = found.containers()
        for container in left:
            container.remove(force=True, v=True)
        assert [container.name for container in left] == []


class Relay:
    """The local engine's socket as tcp://127.0.0.1:PORT; while it is not `open`, everything hangs, as on a cut line."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.open = threading.Event()
        self.open.set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self.open.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._connect, args=(near,)))
                self._threads[-1].start()

    def _connect(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(SOCKET)
            there = threading.Thread(target=self._pass_on, args=(near, far))
            there.start()
            self._pass_on(far, near)
            there.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.open.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay() -> Iterator[Relay]:
    with contextlib.closing(Relay()) as found:
        yield found


def test_a_sweep_in_containers_has_the_spec_of_one_in_processes(bench: Bench, tmp_path: Path) -> None:
    code, said = bench.run("measure.duration_s=2")
    assert code == 0, said
    runs = bench.runs()
    assert sorted(run["spec"]["server"]["streams"] for run in runs) == [1, 2]
    for run in runs:
        assert run["verdict"] in ("VALID", "FLAGGED")
        seen = {name: witness["requests"] for name, witness in run["witnesses"].items()}
        assert seen["client"] == seen["balancer"] == seen["server"] > 30
        used = run["server_container"]
        assert used["image_id"] == bench.image
        assert 0 < used["cpu_percent_mean"] <= used["cpu_percent_max"]
        assert used["memory_bytes_max"] > 20e6  # more than the model and Python without anything
        directory = bench.out / run["directory"]
        log = (directory / "logs/server.log").read_text()
        assert f"{run['spec']['server']['streams']} streams" in log and "stopped" in log
        samples = pq.read_table(directory / "samples.parquet").to_pylist()
        cpu = [one["value"] for one in samples if one["name"] == "container_cpu_usage_seconds_total"]
        assert len(cpu) >= 3 and cpu == sorted(cpu)
    assert bench.is_gone()

    process = [*COMMAND, "run", "plans/docker.toml", "--models", str(bench.repository), *SHORT]
    process += ["--set", "measure.duration_s=2", "--set", "server.launch=process", "--out", str(tmp_path / "process")]
    subprocess.run(process, cwd=ROOT, check=True, capture_output=True, timeout=240)
    plain = json.loads((tmp_path / "process/summary.json").read_text())["runs"]
    assert [spec_without_container(run) for run in plain] == [spec_without_container(run) for run in runs]
    assert [run["server_container"] for run in plain] == [None, None]


def spec_without_container(run: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = run["spec"]
    return {**spec, "server": {key: value for key, value in spec["server"].items() if key not in ("launch", "image")}}


def test_a_container_is_closed_and_limited_and_its_death_makes_the_run_invalid(bench: Bench) -> None:
    limits = ['server.cpus="0"', "server.cpu_limit=0.8", "server.memory_mb=1500"]
    with bench.start("server.streams=1", *limits, LONG) as process:
        container = bench.measuring(process)
        assert_is_closed(container.attrs, bench.repository)
        container.kill()
        killed_s = time.monotonic()
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 4, output + errors
    assert time.monotonic() - killed_s < 50  # the window had almost 60 s to go
    (run,) = bench.runs()
    assert run["verdict"] == "INVALID"
    (reason,) = [reason for reason in run["reasons"] if reason["code"] == "server_died"]
    assert "the server's container was killed by SIGKILL" in reason["message"]
    assert run["requests"]["ok"] > 0
    samples = pq.read_table(bench.out / run["directory"] / "samples.parquet").to_pylist()
    periods = [one["value"] for one in samples if one["name"] == "container_cpu_cfs_periods_total"]
    assert periods[-1] > 0  # the kernel counts: there is a limit
    assert (bench.out / "report.html").exists()
    assert bench.containers() == []


def assert_is_closed(attrs: dict[str, Any], repository: Path) -> None:
    config, host = attrs["Config"], attrs["HostConfig"]
    assert (host["CpusetCpus"], host["NanoCpus"]) == ("0", 800_000_000)
    assert host["Memory"] == host["MemorySwap"] == 1_500_000_000
    assert host["ReadonlyRootfs"] and list(host["Tmpfs"]) == ["/tmp"] and "size=" in host["Tmpfs"]["/tmp"]
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["PidsLimit"] > 0 and host["AutoRemove"] and host["RestartPolicy"]["Name"] in ("", "no")
    assert config["User"] not in ("", "0", "root", "0:0")
    (mount,) = attrs["Mounts"]
    assert (mount["Source"], mount["RW"]) == (str(repository / "ocr-cls"), False)
    published = [one for ports in attrs["NetworkSettings"]["Ports"].values() for one in ports or ()]
    assert len(published) == 2 and {one["HostIp"] for one in published} == {"127.0.0.1"}


def test_ctrl_c_saves_what_there_is_and_removes_the_container(bench: Bench) -> None:
    with bench.start("server.streams=1", LONG) as process:
        bench.measuring(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    (run,) = bench.runs()
    assert run["reasons"][0]["code"] == "interrupted"
    assert run["requests"]["ok"] > 0
    assert bench.containers() == []


def test_a_container_does_not_outlive_a_controller_that_was_killed(bench: Bench) -> None:
    with bench.start("server.streams=1", LONG) as process:
        bench.measuring(process)
        process.kill()
        process.communicate(timeout=60)
    assert bench.is_gone()


def test_a_server_elsewhere_gets_its_files_and_is_reached_at_its_address(bench: Bench, relay: Relay) -> None:
    (port,) = free_ports(1)
    there = [f"server.engine={relay.url}", f"server.address=127.0.0.1:{port}"]
    with bench.start("server.streams=1", "load.protocol=rest", "measure.duration_s=2", *there) as process:
        container = bench.measuring(process)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    (mount,) = container.attrs["Mounts"]
    assert (mount["Type"], mount["Destination"]) == ("volume", "/models")
    ports = container.attrs["NetworkSettings"]["Ports"]
    assert ports["9000/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(port)}]
    assert ports["8000/tcp"][0]["HostIp"] == "127.0.0.1"
    (run,) = bench.runs()
    seen = {name: witness["requests"] for name, witness in run["witnesses"].items()}
    assert run["verdict"] in ("VALID", "FLAGGED") and seen["client"] == seen["balancer"] == seen["server"] > 30
    assert run["server_container"]["engine"]["address"] == relay.url
    assert bench.containers() == []
    assert mount["Name"] not in [volume.name for volume in bench.client.volumes.list()]


def test_a_cut_line_to_the_engine_ends_run_and_container(bench: Bench, relay: Relay) -> None:
    (port,) = free_ports(1)
    there = [f"server.engine={relay.url}", f"server.address=127.0.0.1:{port}"]
    with bench.start("server.streams=1", "measure.duration_s=200", *there) as process:
        bench.measuring(process)
        relay.open.clear()
        cut_s = time.monotonic()
        assert bench.is_gone()  # the lease is over, and nobody told the engine
        output, errors = process.communicate(timeout=180)
    assert process.returncode == 4, output + errors
    assert time.monotonic() - cut_s < 180
    (run,) = bench.runs()
    assert "server_died" in [reason["code"] for reason in run["reasons"]]
    assert run["requests"]["ok"] > 0
    assert any("did not say that the server's container is gone" in note for note in run["notes"])


def test_a_server_that_its_memory_limit_kills_while_it_is_asked_for_references_is_said_to_be_that(
    bench: Bench,
) -> None:
    code, said = bench.run("server.streams=1", "server.memory_mb=350", "load.batch=2048", "load.payloads=1")
    assert code == 4, said
    (run,) = bench.runs()
    codes = {reason["code"]: reason["message"] for reason in run["reasons"]}
    assert "killed for memory: server.memory_mb = 350 is its limit" in codes["server_died"]
    assert "reference_failed" not in codes
    assert bench.containers() == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["server.image=loadproof-nowhere:1"],
            "server.image = loadproof-nowhere:1: the engine does not have it; docker",
        ),
        (["server.image=debian:bookworm-slim"], "has no ENTRYPOINT that takes OVMS's flags; is it a model server?"),
        (['server.cpus="0,4000"'], "server.cpus = 0,4000: the engine refuses it"),
        (["server.memory_mb=16"], "the server's container was killed for memory: server.memory_mb = 16 is its limit"),
        (["server.engine=tcp://127.0.0.1:1", "server.address=127.0.0.1:9000"], "no Docker engine answers"),
    ],
)
def test_what_cannot_start_is_one_clear_error_and_leaves_nothing(bench: Bench, settings: list[str], told: str) -> None:
    code, said = bench.run("server.streams=1", *settings)
    assert code == 1, said
    assert told in said
    assert bench.containers() == []
