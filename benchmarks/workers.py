"""Do two processes of the server serve a small model faster than one? Both in turns, on an otherwise idle machine.

    python -m benchmarks.workers [--out FILE.json]

takes two minutes. The model is a perceptron, three layers of 64 by 64: nearly all of a request is the server's own
work. The load is h2load's, one thread on the same machine, a request in flight on each connection. Figures are the
medians of the rounds; CPU is user and system a request; `busier` is the part of the workers' CPU that the busier one
had in the median round: the kernel gives connections away by a hash, not by load. The server must have counted as many
successes as were sent: h2load does not see gRPC's status.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from benchmarks import h2load
from benchmarks.models import ROOT, model_of
from benchmarks.parties import counted, started
from loadproof.launch.ports import free_ports
from loadproof_server.dataplane.metric_names import REQUESTS_SUCCESS

ROUNDS: Final = 5
LOAD_S: Final = 1.5
WORKERS: Final = (1, 2)
CONNECTIONS: Final = (1, 8, 64)
PROTOCOLS: Final = ("grpc", "rest")


@dataclass(frozen=True, slots=True)
class Reading:
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server
    client_cpu_us: float
    busier: float


@dataclass(frozen=True, slots=True)
class Server:
    processes: list[psutil.Process]  # that serve
    ports: dict[str, int]

    def successes(self) -> float:
        return counted(f"127.0.0.1:{self.ports['rest']}", REQUESTS_SUCCESS)

    def cpu_s(self) -> list[float]:
        return [sum(process.cpu_times()[:2]) for process in self.processes]


def run() -> None:
    """The benchmark: prints the table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    readings: dict[tuple[str, int, int], list[Reading]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = model_of("mlp", directory).file
        servers = {workers: serve(stack, model, workers) for workers in WORKERS}
        for round_ in range(ROUNDS + 1):  # the first one warms up, and says how many requests a load takes
            for protocol in PROTOCOLS:
                for connections in CONNECTIONS:
                    for workers, server in servers.items():
                        known = readings.setdefault((protocol, connections, workers), [])
                        number = int(known[-1].requests_per_s * LOAD_S) if known else 200
                        known.append(offer(server, protocol, connections, max(number, 200)))
            print(f"round {round_} of {ROUNDS}", file=sys.stderr)
    rows = [row(*cell, found[1:]) for cell, found in readings.items()]
    print(table(rows))
    if arguments.out:
        about = {"schema": 1, "date": time.strftime("%Y-%m-%d"), "rounds": ROUNDS, "cores": psutil.cpu_count()}
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def serve(stack: ExitStack, model: Path, workers: int) -> Server:
    ports = free_ports(2)
    command = [sys.executable, "-m", "loadproof_server.main", "--model_name", h2load.MODEL, "--model_path", str(model)]
    command += ["--port", str(ports[0]), "--rest_port", str(ports[1]), "--log_level", "WARNING"]
    command += ["--metrics_enable", "--grpc_workers", str(workers), "--rest_workers", str(workers)]
    process = stack.enter_context(started(command, ROOT, tuple(ports)))
    return Server(process.children() if workers > 1 else [process], dict(zip(PROTOCOLS, ports, strict=True)))


def offer(server: Server, protocol: str, connections: int, number: int) -> Reading:
    counted_before, before = server.successes(), server.cpu_s()
    seen = h2load.offer(f"127.0.0.1:{server.ports[protocol]}", protocol, connections, number)
    spent_s = [after - earlier for after, earlier in zip(server.cpu_s(), before, strict=True)]
    if (grown := server.successes() - counted_before) != number:
        raise SystemExit(f"{protocol}, {connections} connections: {number} sent, {grown:.0f} succeeded")
    p50_ms, p99_ms = np.percentile(seen.latency_ms, [50, 99])
    cpu_us = sum(spent_s) / number * 1e6
    return Reading(seen.rate_rps, p50_ms, p99_ms, cpu_us, seen.cpu_us_per_request, max(spent_s) / (sum(spent_s) or 1))


def row(protocol: str, connections: int, workers: int, readings: list[Reading]) -> dict[str, Any]:
    found = [asdict(reading) for reading in readings]
    figures = {name: round(statistics.median(each[name] for each in found), 3) for name in found[0]}
    rounds = [round(reading.requests_per_s) for reading in readings]
    cell = {"protocol": protocol, "connections": connections, "workers": workers}
    return {**cell, **figures, "requests_per_s_by_round": rounds}


def table(rows: list[dict[str, Any]]) -> str:
    columns = ("requests_per_s", "p50_ms", "p99_ms", "cpu_us", "client_cpu_us", "busier")
    lines = [f"{'protocol':10}{'conns':>6}{'workers':>9}" + "".join(f"{name:>16}" for name in columns)]
    for each in rows:
        cell = f"{each['protocol']:10}{each['connections']:6}{each['workers']:9}"
        lines.append(cell + "".join(f"{each[name]:16.2f}" for name in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    run()
