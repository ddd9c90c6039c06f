"""A truth server, and loads against it: Loadproof's as a user runs it, h2load's through the same HAProxy."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.h2load import message
from loadproof.launch import balancer
from loadproof.launch.target import Target
from loadproof_clients.apis import APIS
from tests.truth.house import FLOATS, ID_HEADER, MODEL

ROOT = Path(__file__).parent.parent.parent
LOADPROOF = [sys.executable, "-c", "from loadproof.cli import main; main()"]
FLOOR_ID = "h2load.1.0.m"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TruthServer:
    """A running truth server: host:port by protocol, its log, its process; another one may have no metrics."""

    grpc: str
    rest: str
    log: Path
    process: subprocess.Popen[str]
    metrics: bool = True

    def visits(self) -> list[dict[str, Any]]:
        """What it logged until now."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def service_s(self) -> Floats:
        """How long it served each request, by its model's clock."""
        return np.array([visit["due_ns"] - visit["begun_ns"] for visit in self.visits()]) / 1e9


@contextlib.contextmanager
def truth_server(log: Path, *flags: str) -> Iterator[TruthServer]:
    """Started with these flags of `tests.truth_server`; leaving the context stops it."""
    command = [sys.executable, "-m", "tests.truth_server", "--log", str(log), *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            yield TruthServer(f"127.0.0.1:{ports['grpc']}", f"127.0.0.1:{ports['rest']}", log, process)
        finally:
            process.terminate()


def plan(server: TruthServer, load: Mapping[str, Any], measure: Mapping[str, Any], **more: Mapping[str, Any]) -> str:
    """A plan (TOML) that measures the external `server`; `more` are further sections."""
    address = {"address": server.grpc, "rest_address": server.rest, **({} if server.metrics else {"metrics": "none"})}
    sections = {"server": {"launch": "external", "model": MODEL, **address}, "load": load, "measure": measure, **more}
    lines = ['name = "truth"']
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Outcome:
    """A finished `loadproof run`; `run` is its first one."""

    code: int
    output: str
    directory: Path

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "summary.json").read_text()))

    @property
    def run(self) -> dict[str, Any]:
        return dict(self.summary["runs"][0])

    def requests(self) -> pa.Table:
        return pq.read_table(self.directory / self.run["directory"] / "requests.parquet")


def start_loadproof(
    server: TruthServer,
    out: Path,
    load: Mapping[str, Any],
    measure: Mapping[str, Any],
    more: Mapping[str, Mapping[str, Any]] | None = None,
    before: Sequence[str] = (),
    **env: str,
) -> subprocess.Popen[str]:
    """`loadproof run` of such a plan with `more` sections, under way; `before` starts it, `env` is added."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".toml")
    path.write_text(plan(server, load, measure, **(more or {})))
    command = [*before, *LOADPROOF, "run", str(path), "--out", str(out)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], out: Path, timeout_s: float = 240) -> Outcome:
    """Waits for its end."""
    output, _ = process.communicate(timeout=timeout_s)
    assert (out / "summary.json").exists(), output
    return Outcome(process.returncode, output, out)


def loadproof(
    server: TruthServer,
    out: Path,
    load: Mapping[str, Any],
    measure: Mapping[str, Any],
    more: Mapping[str, Mapping[str, Any]] | None = None,
    timeout_s: float = 240,
) -> Outcome:
    return finish(start_loadproof(server, out, load, measure, more), out, timeout_s)


@dataclass(frozen=True)
class Joined:
    """Client and truth of the same good requests of the window, in ms, by the request's id."""

    client_ms: Floats  # as the run's latency: from planned (open loop) or sent
    service_ms: Floats  # from sent to received
    truth_ms: Floats  # from arrival to departure
    due_ms: Floats  # from planned to departure: what an ideal client of the same schedule would have seen

    @property
    def added_ms(self) -> Floats:
        """What the client says more than the truth."""
        return self.service_ms - self.truth_ms


def join(outcome: Outcome, server: TruthServer) -> Joined:
    """Every good request of the window has exactly one visit; their clock is one (time.monotonic_ns of the machine)."""
    rows = outcome.requests().to_pydict()
    t0_ns = json.loads((outcome.directory / outcome.run["directory"] / "run.json").read_text())["t0_monotonic_ns"]
    visits = {visit["id"]: visit for visit in server.visits()}
    found = []
    names = ("id", "phase", "status", "planned_ns", "sent_ns", "received_ns")
    for name, phase, status, planned, sent, received in zip(*(rows[key] for key in names), strict=True):
        if (phase, status) == ("measure", "ok"):
            arrived, left = visits[name]["arrived_ns"] - t0_ns, visits[name]["left_ns"] - t0_ns
            assert planned <= sent <= arrived <= left <= received, f"{name}: {planned, sent, arrived, left, received}"
            found.append((received - planned, received - sent, left - arrived, left - planned))
    return Joined(*(np.array(found, float).reshape(-1, 4).T / 1e6))


def h2load(server: TruthServer, protocol: str, clients: int, rate_rps: float | None, requests: int) -> Floats:
    """What h2load says more than the truth, in ms a request: closed loop, or `rate_rps` over all clients.

    Its requests share one id: its log and the server's are joined in the order of sending.
    """
    before = len(server.visits())
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with balancer.start(Target(MODEL, APIS["kserve"], server.grpc, server.rest, None), place) as proxy:
            _offer(proxy.address(protocol), protocol, clients, rate_rps, requests, place)
        rows = [line.split("\t") for line in (place / "h2load.log").read_text().splitlines()]
    assert all(status == "200" for _, status, _ in rows), "h2load saw a failure"
    seen = sorted((int(start_us), int(time_us) / 1e3) for start_us, _, time_us in rows)
    truth = sorted((visit["arrived_ns"], visit["left_ns"]) for visit in server.visits()[before:])
    pairs = zip(seen, truth, strict=True)
    return np.array([client_ms - (left - arrived) / 1e6 for (_, client_ms), (arrived, left) in pairs])


def _offer(address: str, protocol: str, clients: int, rate_rps: float | None, requests: int, place: Path) -> None:
    flags, path = message(protocol, MODEL, FLOATS, place / "body")
    flags += ["-m", "100" if protocol == "grpc" and rate_rps is not None else "1"]
    rate = []
    if rate_rps is not None:  # clients start one gap of the schedule apart, or they would send all at once for ever
        rate = ["--rps", f"{rate_rps / clients:g}", "-r", "1", f"--rate-period={1000 / rate_rps:.0f}ms"]
    command = ["h2load", "-t", "1", "-c", str(clients), "-n", str(requests), *rate, *flags]
    command += ["-H", f"{ID_HEADER}: {FLOOR_ID}", "-d", str(place / "body"), "--log-file", str(place / "h2load.log")]
    subprocess.run([*command, f"http://{address}/{path}"], check=True, capture_output=True, timeout=120)
