"""Drives the null server with the real load generator (master, worker, records, references), and measures what it took.

Directly, without the balancer: the ceiling and the floor are the generator's own. What the balancer adds to a request
is in each run's own log.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from loadproof.errors import LoadproofError
from loadproof.launch import load
from loadproof.launch.child import Child
from loadproof.launch.endpoints import Endpoints
from loadproof_clients.records import OK, RECORD
from loadproof_clients.spec import Load, LoadSpec, Measure

MODEL: Final = "null"
ANSWER_TIMEOUT_S: Final = 20
SILENT_S_MAX: Final = 60


@dataclass(frozen=True)
class Reading:
    """One drive of one worker process: what its records say of the window, and the CPU that it took."""

    latency_ns: NDArray[np.int64]  # sent to received, of each answer that came inside the window
    received_s: NDArray[np.float64]  # when they came, from the window's start
    seconds: float
    cpu_us_per_request: float
    cpu_percent: float  # of one core

    @property
    def rate_rps(self) -> float:
        return len(self.latency_ns) / self.seconds


class NullServer:
    """A running null server: host:port by protocol, and payloads and reference answers in its API."""

    def __init__(self, child: Child, place: Path, api: str) -> None:
        ports = json.loads(_line(child))
        self.child, self.place = child, place
        self.address = {protocol: f"127.0.0.1:{ports[protocol]}" for protocol in ports}
        self.payloads, self.answers = place / "payloads.bin", place / "answers.bin"
        spec, path = self._spec(Load.model_validate({"api": api}), Measure()), place / "prepare.json"
        path.write_text(spec.model_dump_json())
        load.prepare(path, self.payloads, place / "prepare.log", place / "reference.rec", self.answers)
        self._drives = 0

    def drive(self, keys: Mapping[str, Any], warmup_s: float, duration_s: float) -> Reading:
        """One run of one worker process; `keys` are the plan's under [load]. Raises LoadproofError, also for an answer
        that is not good: a generator that fails on this server has no ceiling.
        """
        self._drives += 1
        work = self.place / f"drive-{self._drives}"
        work.mkdir()
        spec = self._spec(
            Load.model_validate({"via": "direct", **keys}),
            Measure(warmup_s=warmup_s, duration_s=duration_s, drain_s=1),
        )
        path = work / "spec.json"
        path.write_text(spec.model_dump_json())
        with load.generate(spec, path, self.payloads, self.answers, work, work, Endpoints(), 1) as generator:
            _follow(generator)
        return _reading(work, spec.measure)

    def _spec(self, chosen: Load, measure: Measure) -> LoadSpec:
        return LoadSpec(run="calibrate", url=self.address[chosen.protocol], model=MODEL, load=chosen, measure=measure)


@contextlib.contextmanager
def null_server(place: Path, api: str = "kserve") -> Iterator[NullServer]:
    """Started, with its payloads in `place`; leaving the context stops it."""
    command = [sys.executable, "-m", "loadproof_clients.null_server", "--api", api]
    with Child("the null server", command, place / "null-server.log", pipe=True) as child:
        yield NullServer(child, place, api)


def _line(child: Child) -> bytes:
    """The first line that it prints; raises LoadproofError where none comes."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=lambda: lines.put(child.stdout.readline()), daemon=True).start()
    try:
        if line := lines.get(timeout=ANSWER_TIMEOUT_S):
            return line
    except queue.Empty:
        pass
    raise LoadproofError(f"{child.name} did not start (log: {child.log})", child.tail())


def _follow(generator: load.Generator) -> None:
    """Waits for the end of the run."""
    trouble = "it reported nothing more"
    while event := generator.next_event(SILENT_S_MAX):
        if event["event"] in ("error", "worker_lost"):
            trouble = event["message"]
    if event is not None or generator.master.popen.wait():
        raise LoadproofError(f"the load generator failed: {trouble}", generator.master.tail())


def _reading(work: Path, measure: Measure) -> Reading:
    records = np.fromfile(work / "records" / "worker-1.rec", RECORD)
    bad = (records["status"] != OK) | ~records["correct"]
    if bad.any():
        raise LoadproofError(f"{int(bad.sum())} of {len(records)} answers of the null server were not good")
    received_s = records["received_ns"] / 1e9
    inside = (received_s >= measure.warmup_s) & (received_s < measure.warmup_s + measure.duration_s)
    rows = [json.loads(line) for line in (work / "generator.jsonl").read_text().splitlines()]
    at_s = [row["time_s"] for row in rows]
    whole = [
        (before, after, row["cpu_percent"])
        for (before, after), row in zip(pairwise(at_s), rows[1:], strict=True)
        if before >= measure.warmup_s and after <= measure.warmup_s + measure.duration_s + 0.1
    ]
    if not inside.any() or not whole:
        raise LoadproofError("the load generator left no reading of its window: is the machine overloaded?")
    cpu_s = sum((after - before) * percent / 100 for before, after, percent in whole)
    begun_s, ended_s = whole[0][0], whole[-1][1]
    answers = int(((received_s >= begun_s) & (received_s < ended_s)).sum())
    return Reading(
        latency_ns=(records["received_ns"] - records["sent_ns"])[inside],
        received_s=received_s[inside] - measure.warmup_s,
        seconds=measure.duration_s,
        cpu_us_per_request=cpu_s / max(1, answers) * 1e6,
        cpu_percent=cpu_s / (ended_s - begun_s) * 100,
    )
