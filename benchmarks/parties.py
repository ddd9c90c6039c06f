"""The servers that are set beside each other: ours, and MLServer in an environment of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from benchmarks.models import ROOT, Model
from loadproof.collect.metrics_text import parse
from loadproof.launch.ports import free_ports
from loadproof_server.dataplane.metric_names import INFERENCE_TIME_US, METHOD, REQUESTS_SUCCESS

OURS, PEER = "loadproof-server", "MLServer"
PEER_PACKAGES: Final = ("mlserver==1.7.1", "openvino==2026.4.1")


@dataclass(frozen=True, slots=True)
class Running:
    """A server, and how its successes are counted."""

    process: psutil.Process
    grpc_port: int
    rest_port: int
    successes: Callable[[], float]
    inferences: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)  # microseconds and number, where it is told

    def cpu_s(self) -> float:
        return sum(sum(each.cpu_times()[:2]) for each in (self.process, *self.process.children(recursive=True)))


def inference_cores(pid: int, load_s: float) -> float:
    """Cores at work in inferences in the middle half of a load that begins now and takes so long.

    Those of the busiest threads, as many as there are cores: OpenVINO infers in no more, and others do little.
    """
    time.sleep(load_s / 4)
    before, begin_s = _threads_s(pid), time.perf_counter()
    time.sleep(load_s / 2)
    grown = sorted(cpu_s - before.get(name, 0.0) for name, cpu_s in _threads_s(pid).items())
    return sum(grown[-len(os.sched_getaffinity(0)) :]) / (time.perf_counter() - begin_s)


def _threads_s(pid: int) -> dict[str, float]:
    """CPU seconds by thread, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks}


@contextmanager
def ours(model: Model, nireq: int, hint: str = "LATENCY") -> Iterator[Running]:
    grpc_port, rest_port = free_ports(2)
    command = [
        sys.executable,
        "-m",
        "loadproof_server.main",
        "--model_name",
        model.name,
        "--model_path",
        str(model.file),
    ]
    command += ["--port", str(grpc_port), "--rest_port", str(rest_port), "--nireq", str(nireq)]
    command += ["--plugin_config", json.dumps({"PERFORMANCE_HINT": hint})]
    with started([*command, "--metrics_enable", "--log_level", "WARNING"], ROOT, (grpc_port, rest_port)) as process:
        address = f"127.0.0.1:{rest_port}"
        successes = partial(counted, address, REQUESTS_SUCCESS)
        yield Running(process, grpc_port, rest_port, successes, partial(inferences, address))


@contextmanager
def peer(model: Model, directory: Path, python: Path) -> Iterator[Running]:
    grpc_port, rest_port, metrics_port = free_ports(3)
    ports = {"grpc_port": grpc_port, "http_port": rest_port, "metrics_port": metrics_port}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    home = directory / "mlserver"
    home.mkdir()
    (home / "settings.json").write_text(json.dumps(settings))
    implementation = {"implementation": "benchmarks.mlserver_runtime.OpenVinoRuntime"}
    parameters = {"parameters": {"uri": str(model.file)}}
    (home / "model-settings.json").write_text(json.dumps({"name": model.name, **implementation, **parameters}))
    command = ["env", f"PYTHONPATH={ROOT}", str(python.parent / "mlserver"), "start", str(home)]
    with started(command, home, (grpc_port, rest_port)) as process:
        successes = partial(counted, f"127.0.0.1:{metrics_port}", "model_infer_request_success_total")
        yield Running(process, grpc_port, rest_port, successes)


@contextmanager
def started(command: list[str], directory: Path, ports: tuple[int, ...]) -> Iterator[psutil.Process]:
    """The server, ready, and ended afterwards; what it says is shown only where it does not start."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        try:
            for port in ports:
                wait_for(port, process)
            yield psutil.Process(process.pid)
        except SystemExit:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-4000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit("a server ended at start; its message is above")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port} after 30 s")


def peer_python(directory: Path) -> Path:
    """MLServer's interpreter, in an environment that is made where there is none."""
    python = directory / "bin" / "python"
    if not (directory / "bin" / "mlserver").exists():
        print(f"installing {', '.join(PEER_PACKAGES)} into {directory}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
    return python


def counted(address: str, name: str) -> float:
    """The sum of a counter's samples at /metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics") as response:
        text = response.read().decode()
    samples = [(json.loads(labels), value) for (found, labels), value in parse(text, name).items() if found == name]
    return sum(value for labels, value in samples if labels.get("method", METHOD) == METHOD)


def inferences(address: str) -> tuple[float, float]:
    return counted(address, f"{INFERENCE_TIME_US}_sum"), counted(address, f"{INFERENCE_TIME_US}_count")
