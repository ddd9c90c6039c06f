"""Which event loop, threads or processes should serve gRPC, REST and /metrics? Load by h2load, in interleaved rounds.

`python -m benchmarks.server_loops [--out FILE]` (about two minutes) starts every candidate, assembled from the server's
own data plane and adapters, with a tiny MLP (256 B in, 256 B out), and offers each the same requests in turn. A figure
is the median of the rounds; CPU is the candidate's processes, user and system. h2load cannot see gRPC's status, which
comes in the trailers: so after each load the server's own success counter must have grown by exactly the requests sent,
its fail counter by none. The decision stands in `server/main.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import openvino as ov
import psutil
import uvloop
from openvino import opset13 as op
from tritonclient.grpc import service_pb2 as pb

from server import grpc_adapter, main, metric_names, options
from server.engine import Engine
from server.metrics import Metrics
from server.plane import Plane
from server.rest_adapter import RestApp

ROUNDS: Final = 3
NIREQ: Final = 4
WIDTH: Final = 64
REQUESTS: Final = {1: 800, 8: 2000}  # by connections
THREADS: Final = 8

ONE_LOOP: Final = "one uvloop"
ONE_ASYNCIO: Final = "one asyncio loop"
REST_THREAD: Final = "REST in its own thread"
REST_PROCESS: Final = "REST in its own process"
GRPC_THREADS: Final = "grpcio threads"
CANDIDATES: Final = (ONE_LOOP, ONE_ASYNCIO, REST_THREAD, REST_PROCESS, GRPC_THREADS)


@dataclass(frozen=True, slots=True)
class Load:
    """One cell of the table: connections by protocol, and whether /metrics is scraped each second meanwhile."""

    candidate: str
    grpc: int = 0
    rest: int = 0
    scraped: bool = False


LOADS: Final = (
    *(Load(candidate, grpc=number) for number in REQUESTS for candidate in (ONE_LOOP, ONE_ASYNCIO, GRPC_THREADS)),
    *(Load(candidate, rest=number) for number in REQUESTS for candidate in (ONE_LOOP, ONE_ASYNCIO, REST_THREAD)),
    *(Load(candidate, grpc=8, rest=8) for candidate in (ONE_LOOP, REST_THREAD, REST_PROCESS)),
    *(Load(candidate, grpc=8, scraped=True) for candidate in (ONE_LOOP, REST_THREAD, REST_PROCESS)),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one load gave; `cpu_us` is server CPU per request."""

    requests_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Running:
    """A candidate's processes and its two ports."""

    processes: tuple[psutil.Process, ...]
    grpc_port: int
    rest_port: int

    def cpu_s(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)


def run() -> None:
    """The benchmark: prints the table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)  # what a candidate's process is started with
    arguments = parser.parse_args()
    if arguments.serve:
        candidate, model, grpc_port, rest_port = arguments.serve
        serve(candidate, Path(model), int(grpc_port), int(rest_port))
        return
    with tempfile.TemporaryDirectory() as directory:
        readings = measure(Path(directory))
    rows = [{**asdict(load), **median(found)} for load, found in readings.items()]
    print(table(rows))
    if arguments.out:
        environment = {"cores": psutil.cpu_count(), "python": platform.python_version(), "grpcio": grpc.__version__}
        content = {"schema": 1, "date": time.strftime("%Y-%m-%d"), "rounds": ROUNDS, "environment": environment}
        arguments.out.write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n")


def measure(directory: Path) -> dict[Load, list[Reading]]:
    """Every load, ROUNDS times, round by round."""
    model = save_mlp(directory / "mlp.xml")
    save_bodies(directory)
    readings: dict[Load, list[Reading]] = {load: [] for load in LOADS}
    with ExitStack() as stack:
        running = {candidate: stack.enter_context(started(candidate, model)) for candidate in CANDIDATES}
        for load in LOADS:  # warm up
            offer(load, running[load.candidate], directory, share=0.1)
        for number in range(ROUNDS):
            for load in LOADS:
                readings[load].append(offer(load, running[load.candidate], directory))
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    return readings


# ---- candidates ----


def serve(candidate: str, model: Path, grpc_port: int, rest_port: int) -> None:
    """Serves one candidate until it is terminated; a port of 0 leaves its protocol out."""
    arguments = ["--model_name", "mlp", "--model_path", str(model), "--port", str(grpc_port), "--rest_port"]
    chosen = options.parse([*arguments, str(rest_port), "--nireq", str(NIREQ), *["--metrics_enable"] * (rest_port > 0)])
    if candidate in (ONE_LOOP, REST_PROCESS):
        uvloop.run(main.serve(chosen))
    elif candidate == ONE_ASYNCIO:
        asyncio.run(main.serve(chosen))
    else:
        plane = Plane(Metrics())
        plane.add_model("mlp", "1", Engine(model, nireq=NIREQ))
        listener = main.listen("127.0.0.1", rest_port)
        rest = main.RestServer(main.rest_config(RestApp(plane, metrics_enabled=True)))
        threading.Thread(target=uvloop.run, args=(rest.serve([listener]),), daemon=True).start()
        if candidate == REST_THREAD:
            uvloop.run(serve_grpc_aio(plane, grpc_port))
        else:
            serve_grpc_threads(plane, grpc_port)


async def serve_grpc_aio(plane: Plane, port: int) -> None:
    server = grpc_adapter.build(plane, f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def serve_grpc_threads(plane: Plane, port: int) -> None:
    """grpcio's blocking server: a thread for each request in flight, which waits for the inference."""

    def infer(message: bytes, _: Any) -> bytes:
        with plane.call(metric_names.GRPC) as call:
            request = pb.ModelInferRequest.FromString(message)
            model = call.model(request.model_name, request.model_version)
            arrays = model.read_inputs(grpc_adapter.inputs_of(request))
            wanted = model.wanted_outputs([output.name for output in request.outputs])
            return grpc_adapter.encode(model, request.id, model.engine.infer(arrays, wanted))

    server = grpc.server(futures.ThreadPoolExecutor(THREADS))
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


@contextmanager
def started(candidate: str, model: Path) -> Iterator[Running]:
    """The candidate, ready, and ended afterwards."""
    ports = free_ports(2)
    split = [(ports[0], 0), (0, ports[1])] if candidate == REST_PROCESS else [(ports[0], ports[1])]
    program = [sys.executable, "-m", "benchmarks.server_loops", "--serve", candidate, str(model)]
    processes = [subprocess.Popen([*program, str(grpc_port), str(rest_port)]) for grpc_port, rest_port in split]
    try:
        for port in ports:
            wait_for(port, processes)
        yield Running(tuple(psutil.Process(process.pid) for process in processes), *ports)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def wait_for(port: int, processes: list[subprocess.Popen[bytes]]) -> None:
    for _ in range(300):
        if any(process.poll() is not None for process in processes):
            raise SystemExit("a candidate ended at start; its message is above")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port} after 30 s")


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in probes]


# ---- the load ----


def offer(load: Load, server: Running, directory: Path, share: float = 1.0) -> Reading:
    """Offers the load once, and fails where the server did not answer each request well."""
    commands = [
        h2load(protocol, load, server, directory, share) for protocol in ("grpc", "rest") if getattr(load, protocol)
    ]
    sent = sum(int(command[command.index("-n") + 1]) for command in commands)
    before = counts(server)
    cpu_s = server.cpu_s()
    started_s = time.perf_counter()
    with scraping(server.rest_port) if load.scraped else ExitStack():
        processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
        for process in processes:
            if process.wait():
                raise SystemExit(f"h2load failed: {process.args!r}")
    elapsed_s = time.perf_counter() - started_s
    cpu_s = server.cpu_s() - cpu_s
    if load.candidate != REST_PROCESS:  # its gRPC process has no /metrics
        success, fail = (after - earlier for after, earlier in zip(counts(server), before, strict=True))
        if (success, fail) != (sent, 0):
            raise SystemExit(f"{load}: {sent} sent, but the server counted {success} successes and {fail} failures")
    latency_ms = sorted(latencies_ms([Path(command[command.index("--log-file") + 1]) for command in commands]))
    return Reading(
        requests_per_s=sent / elapsed_s,
        cpu_us=cpu_s / sent * 1e6,
        p50_ms=latency_ms[len(latency_ms) // 2],
        p99_ms=latency_ms[int(len(latency_ms) * 0.99)],
    )


def h2load(protocol: str, load: Load, server: Running, directory: Path, share: float) -> list[str]:
    connections = getattr(load, protocol)
    log = directory / f"{protocol}.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "-t", "1", "-m", "1", "-c", str(connections), "-n", str(int(REQUESTS[connections] * share))]
    command += ["--log-file", str(log), "-d", str(directory / protocol)]
    if protocol == "grpc":
        address = f"http://127.0.0.1:{server.grpc_port}/inference.GRPCInferenceService/ModelInfer"
        return [*command, "-H", "content-type: application/grpc", "-H", "te: trailers", address]
    length = (directory / "rest-header-length").read_text()
    header = f"Inference-Header-Content-Length: {length}"
    return [*command, "--h1", "-H", header, f"http://127.0.0.1:{server.rest_port}/v2/models/mlp/infer"]


def latencies_ms(logs: list[Path]) -> Iterator[float]:
    """h2load's log has start in us, HTTP status and time in us, a line a request."""
    for log in logs:
        for line in log.read_text().splitlines():
            _, status, time_us = line.split("\t")
            if status != "200":
                raise SystemExit(f"h2load saw HTTP status {status}")
            yield int(time_us) / 1e3


def counts(server: Running) -> tuple[int, int]:
    """The server's successes and failures, over both protocols."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.rest_port}/metrics") as response:
        text = response.read().decode()

    def total(name: str) -> int:
        return sum(int(value) for value in re.findall(rf"^{name}{{.*}} (\d+)$", text, re.MULTILINE))

    return total(metric_names.REQUESTS_SUCCESS), total(metric_names.REQUESTS_FAIL)


@contextmanager
def scraping(port: int) -> Iterator[None]:
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(1.0):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                response.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    yield
    done.set()
    thread.join()


# ---- the model and its request ----


def save_mlp(path: Path) -> Path:
    """Three layers of 64 by 64, float32, seeded."""
    rng = np.random.default_rng(1)
    node = parameter = op.parameter([1, WIDTH], np.float32, name="x")
    for _ in range(3):
        weights = op.constant(rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 8)
        node = op.relu(op.matmul(node, weights, False, False))
    parameter.output(0).set_names({"x"})
    node.output(0).set_names({"y"})
    ov.save_model(ov.Model([op.result(node)], [parameter], "mlp"), path, compress_to_fp16=False)
    return path


def save_bodies(directory: Path) -> None:
    """The gRPC frame (no compression, 4-byte length, message) and the REST body, as files for h2load."""
    raw = np.ones(WIDTH, np.float32).tobytes()
    request = pb.ModelInferRequest(model_name="mlp", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype="FP32", shape=[1, WIDTH])
    message = request.SerializeToString()
    (directory / "grpc").write_bytes(struct.pack(">BI", 0, len(message)) + message)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    (directory / "rest").write_bytes(header + raw)
    (directory / "rest-header-length").write_text(str(len(header)))


# ---- the table ----


def median(readings: list[Reading]) -> dict[str, float]:
    found = [asdict(reading) for reading in readings]
    return {name: round(statistics.median(row[name] for row in found), 3) for name in found[0]}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'load':24}{'candidate':26}{'requests/s':>11}{'CPU us':>8}{'p50 ms':>8}{'p99 ms':>8}"]
    for row in rows:
        parts = [f"{name} {row[key]}" for name, key in (("gRPC", "grpc"), ("REST", "rest")) if row[key]]
        load = ", ".join(parts) + (", scraped" if row["scraped"] else "")
        figures = f"{row['requests_per_s']:11.0f}{row['cpu_us']:8.0f}{row['p50_ms']:8.2f}{row['p99_ms']:8.2f}"
        lines.append(f"{load:24}{row['candidate']:26}{figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    run()
