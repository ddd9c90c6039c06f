"""How long, and how much memory, do ten million request records take to become a report?

`python -m benchmarks.analysis [--requests N] [--out FILE]` makes what the parties of a seeded open-loop run leave
behind: record files of four workers, the balancer's raw log, scraped counters, the generator's readings. Then, measured
and in a process of its own, it collects them into a run directory, analyses that and renders the report: wall-clock
seconds of each stage, and the most memory that the process had had resident at its end. The limits are 60 s and 2 GB
for all three.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
from numpy.typing import NDArray

from benchmarks import proof
from loadproof import analyse, environment, report, rundir
from loadproof.run import gather
from loadproof_clients.records import PHASES, RECORD

WORKERS: Final = 4
CLIENTS: Final = 64
RATE_RPS: Final = 20_000
WARMUP_S: Final = 10.0
T0_US: Final = 1_790_000_000_000_000
RUN: Final = "6ab3f2c0-1"
DIRECTORY: Final = "runs/001-analysis"
Mark = tuple[str, float, float, int]  # a stage's name; at its end: wall clock s, CPU s, most resident bytes until then
MAKE_ROWS: Final = 1 << 20


def make(campaign: Path, requests: int) -> None:
    """Everything that a run of so many requests leaves; all of them answered, one in a million wrong."""
    directory, rng = campaign / DIRECTORY, np.random.default_rng(1)
    work = directory / "work"
    (work / "records").mkdir(parents=True)
    duration_s = requests / RATE_RPS
    with (work / "requests.log").open("wb") as log:
        for worker in range(1, WORKERS + 1):
            with (work / f"records/worker-{worker}.rec").open("wb") as file:
                for rows in _records(rng, requests // WORKERS, duration_s):
                    rows.tofile(file)
                    csv.write_csv(
                        _log_lines(rng, worker, rows),
                        log,
                        csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none"),
                    )
    spec = {
        "server": {"model": "synthetic", "launch": "process"},
        "load": {"protocol": "grpc", "via": "balancer", "arrivals": "poisson", "rate_rps": float(RATE_RPS)}
        | {"clients": CLIENTS, "processes": WORKERS, "batch": 1, "verify": 1.0},
        "measure": {"warmup_s": WARMUP_S, "duration_s": duration_s - WARMUP_S, "drain_s": 5.0, "repeats": 1},
        "slo": {},
    }
    _write_facts(campaign, spec, requests // WORKERS * WORKERS, duration_s)


def _records(rng: np.random.Generator, count: int, duration_s: float) -> Iterator[NDArray[np.void]]:
    """A worker's Poisson arrivals, in pieces: answers are log-normal around 5 ms, one in a hundred ten times that."""
    planned = np.sort(rng.integers(0, int(duration_s * 1e9), count))
    for start in range(0, count, MAKE_ROWS):
        due = planned[start : start + MAKE_ROWS]
        rows = np.zeros(len(due), RECORD)
        took_ms = rng.lognormal(np.log(5), 0.3, len(due)) * np.where(rng.random(len(due)) < 0.01, 10, 1)
        rows["planned_ns"] = due
        rows["sent_ns"] = due + rng.exponential(100_000, len(due)).astype(np.int64)
        rows["received_ns"] = rows["sent_ns"] + (took_ms * 1e6).astype(np.int64)
        rows["sequence"] = np.arange(start, start + len(due))
        rows["client"], rows["payload"] = rows["sequence"] % CLIENTS, rows["sequence"] % 32
        rows["phase"] = np.where(due < WARMUP_S * 1e9, PHASES.index("warmup"), PHASES.index("measure"))
        rows["verified"] = True
        rows["correct"] = rng.random(len(due)) >= 1e-6
        yield rows


def _log_lines(rng: np.random.Generator, worker: int, rows: NDArray[np.void]) -> pa.Table:
    """The rows as haproxy.cfg's log-format has them."""
    (table,) = rundir.request_tables(RUN, {worker: rows})
    sent, received = table["sent_ns"].to_numpy() // 1000 + T0_US, table["received_ns"].to_numpy() // 1000 + T0_US
    edge = ((received - sent) * rng.uniform(0.02, 0.1, len(rows))).astype(np.int64)
    constant = {"status": "200", "termination": "--", "retries": "0", "queue_ms": "0", "server": "server"}
    columns: dict[str, Any] = {"accepted": sent + edge, "headers": received - edge - 20, "end": received - edge}
    columns |= {name: pa.repeat(text, len(rows)) for name, text in constant.items()}
    return pa.table(columns | {"id": table["id"]})


def _write_facts(campaign: Path, spec: dict[str, Any], requests: int, duration_s: float) -> None:
    directory = campaign / DIRECTORY
    infer = {"api": "KServe", "interface": "gRPC", "method": "ModelInfer", "name": "synthetic", "version": "1"}
    proxy = {"proxy": "grpc_infer"}
    counters = [
        ("balancer", "haproxy_backend_http_requests_total", proxy),
        ("balancer", "haproxy_backend_sessions_total", proxy),
        ("server", "ovms_requests_success", infer),
        ("server", "ovms_requests_fail", infer),
    ]
    seconds = np.arange(-1.0, duration_s + 3)
    shown = np.clip(seconds / duration_s, 0, 1) * requests
    samples: dict[str, list[Any]] = {name: [] for name in rundir.SAMPLES.names}
    for source, name, labels in counters:
        samples["source"] += [source] * len(seconds)
        samples["name"] += [name] * len(seconds)
        samples["labels"] += [json.dumps(labels, sort_keys=True)] * len(seconds)
        samples["time"] += seconds.tolist()
        samples["value"] += (shown * (not name.endswith("_fail"))).round().tolist()
    rundir.write_samples(directory, samples)
    time_s = np.repeat(np.arange(1.0, duration_s), WORKERS)
    readings = {
        "worker": np.arange(len(time_s)) % WORKERS + 1,
        "time_s": time_s,
        "cpu_percent": np.full(len(time_s), 50),
    }
    readings |= {"rss_bytes": np.full(len(time_s), 10**8), "in_flight": np.full(len(time_s), 30)}
    rundir.write_generator(directory, readings)
    workers = [{"worker": worker, "complete": True} for worker in range(1, WORKERS + 1)]
    facts = {
        "name": "analysis",
        "spec": spec,
        "repeat": 1,
        "t0_epoch_us": T0_US,
        "t0_monotonic_ns": 1,
        "workers": workers,
    }
    facts |= {
        "references": {"source": "openvino", "error": None},
        "server": {"metrics": True},
        "log": {"lines": requests, "unread": 0, "dropped": 0, "bad": 0},
    }
    rundir.write_run(directory, facts)
    planned = [{"name": "analysis", "directory": DIRECTORY, "spec": spec}]
    head: dict[str, Any] = {
        "name": "analysis",
        "created": "2026-11-22T00:00:00+00:00",
        "loadproof": environment.version("loadproof"),
    }
    head |= {"environment": environment.record()}
    rundir.write_campaign(campaign, {**head, "plan": {}, "plan_sha256": "", "runs": planned, "interrupted": False})


def stages(campaign: Path) -> dict[str, Any]:
    """Collect, analyse and render; seconds of each, peak memory of this process, and what came out."""
    directory = campaign / DIRECTORY
    work = directory / "work"
    marks: list[Mark] = [("", time.monotonic(), time.process_time(), 0)]

    def mark(name: str) -> None:
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        marks.append((name, time.monotonic(), time.process_time(), peak_bytes))

    rundir.write_requests(directory, rundir.request_tables(RUN, gather.read_records(work, 0)))
    gather.write_balancer(directory, work / "requests.log")
    mark("collect")
    (run,) = analyse.campaign(campaign).runs
    mark("analyse")
    report.render(campaign)
    mark("report")
    rows = [_row(end[0], start, end) for start, end in itertools.pairwise(marks)]
    rows.append(_row("all", marks[0], marks[-1]))
    seen = {name: witness.requests for name, witness in run.witnesses.present().items()}
    reasons = [reason.code for reason in run.reasons]
    return {
        "stages": rows,
        "witnesses": seen,
        "reasons": reasons,
        "differences": run.reconcile.differences,
    }


def _row(stage: str, start: Mark, end: Mark) -> dict[str, Any]:
    seconds = {"seconds": round(end[1] - start[1], 2), "cpu_seconds": round(end[2] - start[2], 2)}
    return {"stage": stage, **seconds, "peak_rss_bytes": end[3]}


def main() -> int:
    parser = proof.options("analysis", __doc__)
    parser.add_argument("--requests", type=int, default=10_000_000)
    arguments, machine = parser.parse_args(), proof.machine()
    with tempfile.TemporaryDirectory(prefix="loadproof-analysis-") as folder:
        campaign = Path(folder)
        # Each in a process of its own: what making the records takes is not the analysis's.
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as making:
            making.apply(make, (campaign, arguments.requests))
        with context.Pool(1) as measured:
            found = measured.apply(stages, (campaign,))
    print(f"{arguments.requests:,} requests    seconds  CPU seconds   peak memory")
    for row in found["stages"]:
        gigabytes = row["peak_rss_bytes"] / 1e9
        print(f"{row['stage']:<20} {row['seconds']:>9.1f} {row['cpu_seconds']:>12.1f} {gigabytes:>10.2f} GB")
    proof.write(arguments.out, "analysis", machine, requests=arguments.requests, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
