"""Builds run directories as the online half would write them: seeded, with witnesses that agree unless told not to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loadproof import rundir
from loadproof_clients.records import CONNECTION, PHASES, RECORD, UNKNOWN_NS

T0_US = 1_790_000_000_000_000
REFERENCE, AUDIT, WARMUP, MEASURE, DRAIN = (
    PHASES.index(name) for name in ("reference", "audit", "warmup", "measure", "drain")
)
BEFORE = 32 + 64  # references and audit
CPUS = 2
BUCKETS_US = [float(int(10 * 1.8**power)) for power in range(33)] + [float("inf")]

SERVED: dict[str, Any] = {
    "metadata": {
        "name": "ocr-cls",
        "versions": ["1"],
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 48, 192]}],
    },
    "status": {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]},
}

Array = NDArray[Any]


@dataclass
class Made:
    """What a run was made of; a test changes it before it is written."""

    spec: dict[str, Any]
    records: dict[int, Array]  # worker -> RECORD rows
    balancer: dict[str, Any]
    samples: list[tuple[str, str, dict[str, str], float, float]]
    generator: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)

    def write(self, run: Path) -> None:
        rundir.write_requests(run, rundir.request_tables("s", self.records))
        if self.spec["load"]["via"] == "balancer":
            rundir.write_balancer(run, [self.balancer])
        source, name, labels, time, value = zip(*self.samples, strict=True)
        texts = [json.dumps(one, sort_keys=True) for one in labels]
        columns = {"source": source, "name": name, "labels": texts, "time": time, "value": value}
        rundir.write_samples(run, columns)
        rundir.write_generator(run, self.generator)
        rundir.write_run(run, self.facts)


Change = Callable[[Made], None]


def spec(**load: Any) -> dict[str, Any]:
    return {
        "server": {"model": "ocr-cls", "hint": "latency", "launch": "process", "device": "CPU"},
        "load": {
            "protocol": "grpc",
            "transport": "tritonclient",
            "via": "balancer",
            "arrivals": "closed",
            "clients": 4,
            "processes": 2,
            "batch": 1,
            "payload": "images",
            "verify": 1.0,
            **load,
        },
        "measure": {"warmup_s": 2.0, "duration_s": 10.0, "drain_s": 5.0, "repeats": 1},
        "slo": {},
    }


def make(seed: int = 1, service_ms: float = 8.0, of: dict[str, Any] | None = None) -> Made:
    """A closed-loop run: its clients wait for log-normal answers; balancer and server saw each a bit shorter."""
    rng = np.random.default_rng(seed)
    plan = of or spec()
    load, measure = plan["load"], plan["measure"]
    window_s = measure["warmup_s"], measure["warmup_s"] + measure["duration_s"]
    make_worker = _worker if load["arrivals"] == "closed" else _open_worker(load)
    records = {
        worker: make_worker(rng, range(worker - 1, load["clients"], load["processes"]), service_ms, window_s)
        for worker in range(1, load["processes"] + 1)
    }
    records[0] = _before(rng, service_ms)
    balancer, server_us = _balancer(rng, pa.concat_tables(rundir.request_tables("s", records)))
    seconds = np.arange(1.0, window_s[1] + 1)
    readings = {
        "worker": np.tile(np.arange(1, load["processes"] + 1), len(seconds)),
        "time_s": np.repeat(seconds, load["processes"]),
        "cpu_percent": rng.normal(40, 5, len(seconds) * load["processes"]),
        "rss_bytes": np.full(len(seconds) * load["processes"], 130_000_000),
        "in_flight": np.full(len(seconds) * load["processes"], load["clients"] // load["processes"]),
        "connections": np.full(len(seconds) * load["processes"], load["clients"] // load["processes"]),
        "wait_percent": rng.uniform(0, 4, len(seconds) * load["processes"]),
        "stood_ms": rng.exponential(3, len(seconds) * load["processes"]),
        "gc_ms": rng.exponential(1, len(seconds) * load["processes"]),
        "wall_ns": np.full(len(seconds) * load["processes"], T0_US * 1000),
    }
    return Made(
        spec=plan,
        records=records,
        balancer=balancer,
        samples=[*_samples(load["protocol"], balancer, server_us, window_s), *_machine(rng, window_s)],
        generator=readings,
        facts=_facts(plan, records),
    )


def calibration(ceiling_rps: float = 10_000.0, floor_ms: float = 0.2, **facts: Any) -> dict[str, Any]:
    """What campaign.json holds of a load generator with this ceiling and floor, for gRPC through tritonclient."""
    way = {
        "transport": "tritonclient",
        "protocol": "grpc",
        "ceiling_rps": ceiling_rps,
        "ceiling_low_rps": 0.98 * ceiling_rps,
        "ceiling_high_rps": 1.02 * ceiling_rps,
        "floor_p50_ms": floor_ms,
        "floor_p50_low_ms": 0.97 * floor_ms,
        "floor_p50_high_ms": 1.03 * floor_ms,
    }
    held = {"state": "valid", "note": None, "created": "2026-09-21T10:00:00+00:00", "threads": 2, "ways": [way]}
    return held | facts


def run(directory: Path, change: Change | None = None, **made: Any) -> Path:
    """Writes one run into `directory`, after `change` has done its harm."""
    result = make(**made)
    if change:
        change(result)
    result.write(directory)
    return directory


def campaign(directory: Path, runs: Sequence[tuple[str, Made | None]]) -> Path:
    """Writes a campaign of named runs; None is a run that was planned and never begun."""
    planned: list[dict[str, Any]] = [
        {"name": name, "directory": rundir.run_directory(number, name), "spec": made.spec if made else spec()}
        for number, (name, made) in enumerate(runs, 1)
    ]
    for one, (_, made) in zip(planned, runs, strict=True):
        if made:
            made.write(directory / one["directory"])
    rundir.write_campaign(
        directory,
        {
            "name": "quick",
            "created": "2026-09-21T13:46:40+00:00",
            "loadproof": "0.1.0",
            "plan": {"name": "quick", **spec()},
            "plan_sha256": "5f" * 32,
            "environment": {
                "cpu_model": "Example CPU @ 2.10GHz",
                "cores": 2,
                "memory_bytes": 8 * 2**30,
                "kernel": "6.1.0",
                "python": "3.11.7",
                "packages": {"openvino": "2026.4.1", "locust": "2.47.0"},
                "haproxy": "2.6.12",
            },
            "runs": planned,
            "interrupted": False,
        },
    )
    return directory


def fail(made: Made, count: int, status: int = 14) -> None:
    """The first `count` requests that worker 1 measured end with `status`; the witnesses have seen them."""
    rows = np.flatnonzero(made.records[1]["phase"] == MEASURE)[:count]
    made.records[1]["status"][rows] = status
    made.records[1]["verified"][rows] = made.records[1]["correct"][rows] = False


def never_connected(made: Made) -> None:
    """One more request of worker 1 that nobody else ever saw, refused at once."""
    extra = made.records[1][-1:].copy()
    extra["sequence"], extra["status"], extra["phase"] = len(made.records[1]), CONNECTION, MEASURE
    extra["verified"] = extra["correct"] = False
    made.records[1] = np.concatenate([made.records[1], extra])


def remove(made: Made, worker: int, count: int) -> None:
    """The last `count` records of a worker are lost; the witnesses have seen the requests."""
    made.records[worker] = made.records[worker][:-count]


def drop_rows(made: Made, count: int) -> None:
    """The balancer's log lost its last `count` lines."""
    made.balancer = {name: values[:-count] for name, values in made.balancer.items()}


def add_to(made: Made, name: str, amount: float, **labels: str) -> None:
    """The counter's last scrape shows `amount` more; less than 0: it stopped growing that much earlier."""
    own = [row for row in made.samples if row[1] == name and labels.items() <= row[2].items()]
    last = max(row[3] for row in own)
    ends = {str(row[2]): row[4] + amount for row in own if row[3] == last}

    def changed(value: float, time: float, end: float) -> float:
        return end if time == last else min(value, end)

    made.samples = [
        (*row[:4], changed(row[4], row[3], ends[str(row[2])])) if row in own else row for row in made.samples
    ]


def _worker(rng: np.random.Generator, clients: range, service_ms: float, window_s: tuple[float, float]) -> Array:
    """Each client's requests, one after the other, from T0 until the window's end; the last ones end after it."""
    parts = []
    for client in clients:
        most = int(window_s[1] * 1000 / service_ms * 3)
        latency = (rng.lognormal(np.log(service_ms), 0.25, most) * 1e6).astype(np.int64)
        slow = rng.random(most) < 0.01
        latency[slow] *= 3
        sent = np.concatenate([[0], np.cumsum(latency + 60_000)[:-1]])
        sent, latency = sent[sent < window_s[1] * 1e9], latency[sent < window_s[1] * 1e9]
        part = np.zeros(len(sent), RECORD)
        part["planned_ns"] = part["sent_ns"] = sent
        part["received_ns"], part["client"] = sent + latency, client
        part["first_byte_ns"] = UNKNOWN_NS
        part["phase"] = np.where(sent < window_s[0] * 1e9, WARMUP, MEASURE)
        parts.append(part)
    rows = np.sort(np.concatenate(parts), order="sent_ns")
    rows["sequence"], rows["payload"] = np.arange(len(rows)), np.arange(len(rows)) % 32
    rows["verified"] = rows["correct"] = True
    return rows


def _open_worker(load: dict[str, Any]) -> Callable[..., Array]:
    """A worker of an open loop: its share of a Poisson process over as many servers as it takes, sent a bit late."""

    def make_worker(rng: Any, clients: range, service_ms: float, window_s: tuple[float, float]) -> Array:
        share = load["rate_rps"] * len(clients) / load["clients"]
        count = rng.poisson(share * window_s[1])
        rows = np.zeros(count, RECORD)
        rows["planned_ns"] = np.sort(rng.uniform(0, window_s[1] * 1e9, count))
        rows["sent_ns"] = rows["planned_ns"] + rng.exponential(300_000, count).astype(np.int64)
        rows["received_ns"] = rows["sent_ns"] + (rng.lognormal(np.log(service_ms), 0.25, count) * 1e6).astype(np.int64)
        rows["client"] = np.array(clients)[np.arange(count) % len(clients)]
        rows["phase"] = np.where(rows["planned_ns"] < window_s[0] * 1e9, WARMUP, MEASURE)
        rows["sequence"], rows["payload"] = np.arange(count), np.arange(count) % 32
        rows["first_byte_ns"] = UNKNOWN_NS
        rows["verified"] = rows["correct"] = True
        return rows

    return make_worker


def _before(rng: np.random.Generator, service_ms: float) -> Array:
    """The audit (fresh inputs, and after each the first again) and the references, one in flight."""
    rows = np.zeros(BEFORE, RECORD)
    rows["sequence"], rows["first_byte_ns"] = np.arange(BEFORE), UNKNOWN_NS
    rows["phase"] = np.where(rows["sequence"] < 64, AUDIT, REFERENCE)
    rows["payload"][:64:2] = rows["payload"][64:] = np.arange(32)
    rows["sent_ns"] = rows["planned_ns"] = -(5_500_000_000 - np.arange(BEFORE) * 50_000_000)
    rows["received_ns"] = rows["sent_ns"] + (rng.lognormal(np.log(service_ms), 0.1, BEFORE) * 1e6).astype(np.int64)
    return rows


def _machine(
    rng: np.random.Generator, window_s: tuple[float, float]
) -> list[tuple[str, str, dict[str, str], float, float]]:
    """A machine on which little else happens."""
    rows: list[tuple[str, str, dict[str, str], float, float]] = []
    own = other = 0.0
    for time in (-6.0, *np.arange(0.0, window_s[1] + 0.5), window_s[1] + 1.5):
        own, other = own + 1.5, other + float(rng.exponential(0.02))
        gauges = {"machine_cpus": CPUS, "machine_wall_seconds": T0_US / 1e6, "machine_frequency_mhz": 2100.0}
        counters = {"busy": own + other, "own": own, "steal": 0.0, "pressure": time / 4, "quota_throttled": 0.0}
        rows += [("machine", name, {}, time, value) for name, value in gauges.items()]
        rows += [("machine", f"machine_{name}_seconds_total", {}, time, value) for name, value in counters.items()]
        rows.append(("machine", "machine_thermal_throttles_total", {}, time, 7.0))
        for party in ("server", "balancer", "workers"):
            rows.append(("machine", "process_wait_seconds_total", {"party": party}, time, own / 50))
    return rows


def _balancer(rng: np.random.Generator, requests: Any) -> tuple[dict[str, Any], Array]:
    """Balancer rows of all requests, and how long the server took for each, in us."""
    sent, received = (requests[name].to_numpy() / 1000 for name in ("sent_ns", "received_ns"))
    client_us = received - sent
    before = rng.uniform(0.03, 0.06, len(sent)) * client_us
    end = T0_US + received - before
    columns = {
        "id": requests["id"].to_pylist(),
        "accepted_us": (T0_US + sent + before).astype(np.int64),
        "headers_us": (end - 20).astype(np.int64),
        "end_us": end.astype(np.int64),
        "status": np.full(len(sent), 200, np.int16),
        "termination": ["--"] * len(sent),
        "retries": np.zeros(len(sent), np.int16),
        "queue_ms": np.zeros(len(sent), np.int32),
        "server": ["model"] * len(sent),
    }
    return columns, (columns["end_us"] - columns["accepted_us"]) * 0.94


def _samples(
    protocol: str, balancer: dict[str, Any], server_us: Array, window_s: tuple[float, float]
) -> list[tuple[str, str, dict[str, str], float, float]]:
    """A scrape before the references, one each second, and one after the drain."""
    done_s = (balancer["end_us"] - T0_US) / 1e6
    model = {"name": "ocr-cls", "version": "1"}
    interface = {"interface": "gRPC" if protocol == "grpc" else "REST", **model}
    method = {"api": "KServe", "method": "ModelInfer", **interface}
    rows: list[tuple[str, str, dict[str, str], float, float]] = []
    for time in (-6.0, *np.arange(0.0, window_s[1] + 0.5), window_s[1] + 1.5):
        us = server_us[done_s <= time]
        rows.append(("balancer", "haproxy_backend_http_requests_total", {"proxy": f"{protocol}_infer"}, time, len(us)))
        rows.append(("balancer", "haproxy_backend_sessions_total", {"proxy": f"{protocol}_infer"}, time, len(us)))
        rows.append(("balancer", "haproxy_backend_http_requests_total", {"proxy": f"{protocol}_other"}, time, 3.0))
        rows.append(("server", "ovms_requests_success", method, time, len(us)))
        rows.append(("server", "ovms_requests_success", {**method, "method": "ModelReady"}, time, 7.0))
        rows.append(("server", "ovms_requests_fail", method, time, 0.0))
        rows.append(("server", "ovms_streams", model, time, 2.0))
        for name, labels, share in (
            ("ovms_request_time_us", interface, 1.0),
            ("ovms_wait_for_infer_req_time_us", model, 0.2),
            ("ovms_inference_time_us", model, 0.7),
        ):
            spent = us * share
            rows += [
                (
                    "server",
                    f"{name}_bucket",
                    {**labels, "le": str(upper).replace("inf", "+Inf")},
                    time,
                    float((spent <= upper).sum()),
                )
                for upper in BUCKETS_US
            ]
            rows.append(("server", f"{name}_sum", labels, time, float(spent.sum())))
            rows.append(("server", f"{name}_count", labels, time, float(len(us))))
    return rows


def _facts(plan: dict[str, Any], records: dict[int, Array]) -> dict[str, Any]:
    workers = [
        {
            "worker": worker,
            "pid": 100 + worker,
            "host": "here",
            "sent": len(rows),
            "records": len(rows),
            "complete": True,
        }
        for worker, rows in records.items()
        if worker
    ]
    return {
        "name": "ocr-cls",
        "spec": plan,
        "repeat": 1,
        "t0_epoch_us": T0_US,
        "t0_monotonic_ns": 1,
        "model": {"name": "ocr-cls", "version": "1", "sha256": "ab" * 32, "source": "rapidocr 3.4.2"},
        "references": {"source": "openvino", "error": None},
        "workers": workers,
        "events": [],
        "end": {"finished": True, "reason": "it came to its end"},
        "notes": [],
        "server": {"metrics": True, "command": ["loadproof-server"], "served": [SERVED, SERVED]},
        "balancer": {"command": ["haproxy"]},
        "log": {"lines": sum(len(rows) for rows in records.values()), "unread": 0, "dropped": 0, "bad": 0},
    }
