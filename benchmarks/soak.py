"""Does the server keep what it should let go? Mixed load of both protocols for half an hour, its memory each second.

    python -m benchmarks.soak [--minutes 30] [--rate 200] [--out FILE.json]

The load is `benchmarks.mixed_load`: of a hundred requests about seventy are good, the rest malformed, oversized or
cancelled, or of connections that come and go. It arrives at random (exponential gaps, seeded) at a rate for running
beside other work. Each kind is asked once before anything is counted, so that what the server makes once is there. The
server is started with glibc's own trim threshold as MALLOC_TRIM_THRESHOLD_, which switches `tensors.memory` off: in
what that keeps a leak would not show. It holds where, over the last two thirds of the time,

- memory (RSS of the server and its children) does not grow: the upper 99 % bound of Theil and Sen's slope (Sen,
  "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968) is under GROWTH_MIB in ten minutes. Its points
  are the medians of a fortieth of it: neighbouring seconds tell the same, which would make the bound too narrow. At 200
  requests a second the limit is 9 bytes a request, less than any Python object takes, and 560 bytes of the kinds that
  are one in sixty: a connection, or a task with its request, takes more.
- open descriptors do not grow: the same bound is under one in ten minutes, and when the load has gone there are as many
  as before it;

and where no request came to anything else than its kind may: no good one failed or was answered wrongly, nothing was a
500 or INTERNAL, the server's log (WARNING and worse) is empty, and it counts no request as in flight when all are gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
import psutil
from openvino import opset13 as op
from scipy.stats import theilslopes

from benchmarks import mixed_load, parties
from benchmarks.mixed_load import KINDS, Clients, Kind
from benchmarks.models import ROOT, model_of
from loadproof import environment
from loadproof.launch.ports import free_ports

CONFIDENCE: Final = 0.99
GROWTH_MIB: Final = 1.0  # in ten minutes
GROWTH_DESCRIPTORS: Final = 1.0
BLOCKS: Final = 40
IN_FLIGHT_MAX: Final = 200
SEED: Final = 7


@dataclass(slots=True)
class Watch:
    """The server's memory and descriptors, a sample a second; and what the requests came to."""

    process: psutil.Process
    at_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def sample(self, at_s: float) -> None:
        family = [self.process, *self.process.children()]
        self.at_s.append(round(at_s, 2))
        self.rss_mib.append(round(sum(each.memory_info().rss for each in family) / 2**20, 3))
        self.descriptors.append(self.process.num_fds())


async def one(clients: Clients, kind: Kind, watch: Watch) -> None:
    try:
        async with asyncio.timeout(2 * mixed_load.PATIENCE_S):
            outcome = await kind.do(clients)
    except Exception as error:  # whatever it is, it is not what the kind may come to
        outcome = f"{type(error).__name__}: {error}"[:100]
    watch.outcomes[kind.name, outcome] += 1


async def load(clients: Clients, watch: Watch, seconds: float, rate_rps: float) -> None:
    """So many seconds of it, and then until the last request is answered."""
    tasks: set[asyncio.Task[None]] = set()
    begin_s = due_s = time.monotonic()
    sampled = -1
    while (due_s := due_s + clients.random.expovariate(rate_rps)) < begin_s + seconds:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        if (second := int(time.monotonic() - begin_s)) > sampled:
            sampled = second
            watch.sample(time.monotonic() - begin_s)
        if len(tasks) >= IN_FLIGHT_MAX:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(one(clients, mixed_load.choose(clients), watch))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


def growth(at_s: list[float], values: list[float] | list[int], begin_s: float) -> tuple[float, float]:
    """Theil and Sen's slope in ten minutes, from `begin_s` on, and its upper bound; points are blocks' medians."""
    width_s = (at_s[-1] - begin_s) / BLOCKS
    blocks: dict[int, list[float]] = {}
    for moment, value in zip(at_s, values, strict=True):
        if moment >= begin_s:
            blocks.setdefault(int((moment - begin_s) / width_s), []).append(value)
    medians = [float(np.median(block)) for block in blocks.values()]
    slope, _, _, high = theilslopes(medians, np.array(list(blocks)) * width_s, alpha=CONFIDENCE)
    return float(slope) * 600, float(high) * 600


async def descriptors_left(process: psutil.Process, few: int) -> int:
    """Those of the server once its clients are gone; those that it closes late have half a minute."""
    for _ in range(300):
        if process.num_fds() <= few:
            break
        await asyncio.sleep(0.1)
    return int(process.num_fds())


async def soak(server: parties.Running, answers: list[Any], seconds: float, rate_rps: float) -> dict[str, Any]:
    watch = Watch(server.process)
    first = Clients(server.grpc_port, server.rest_port, answers, SEED)
    for kind in KINDS:
        await one(first, kind, watch)
    await first.close()
    await asyncio.sleep(3)
    before = server.process.num_fds()
    server_cpu_s, own_cpu_s, began_s = server.cpu_s(), time.process_time(), time.monotonic()
    clients = Clients(server.grpc_port, server.rest_port, answers, SEED + 1)
    await load(clients, watch, seconds, rate_rps)
    took_s = time.monotonic() - began_s
    cpu = {"server": (server.cpu_s() - server_cpu_s) / took_s, "load": (time.process_time() - own_cpu_s) / took_s}
    await clients.close()
    return {
        "seconds": round(took_s),
        "rate_rps": rate_rps,
        "cpu_percent": {name: round(share * 100, 1) for name, share in cpu.items()},
        "descriptors_before": before,
        "descriptors_after": await descriptors_left(server.process, before),
        "in_flight_after": parties.counted(f"127.0.0.1:{server.rest_port}", "ovms_current_requests"),
        "kinds": outcomes(watch),
        **trends(watch, seconds / 3),
        "samples": {"at_s": watch.at_s, "rss_mib": watch.rss_mib, "descriptors": watch.descriptors},
    }


def outcomes(watch: Watch) -> list[dict[str, Any]]:
    rows = []
    for kind in KINDS:
        found = {outcome: number for (name, outcome), number in watch.outcomes.items() if name == kind.name}
        unexpected = sum(number for outcome, number in found.items() if outcome not in kind.expected)
        rows.append({"kind": kind.name, "good": kind.good, "outcomes": found, "unexpected": unexpected})
    return rows


def trends(watch: Watch, begin_s: float) -> dict[str, Any]:
    memory, files = (growth(watch.at_s, values, begin_s) for values in (watch.rss_mib, watch.descriptors))
    late = [value for moment, value in zip(watch.at_s, watch.rss_mib, strict=True) if moment >= begin_s]
    return {
        "rss_mib": {"least": min(late), "most": max(late), "slope_10min": memory[0], "high_10min": memory[1]},
        "descriptors": {"most": max(watch.descriptors), "slope_10min": files[0], "high_10min": files[1]},
    }


def checks(found: dict[str, Any], log: str) -> dict[str, bool]:
    seen = [outcome for row in found["kinds"] for outcome in row["outcomes"]]
    return {
        "memory is flat": found["rss_mib"]["high_10min"] < GROWTH_MIB,
        "descriptors are flat": found["descriptors"]["high_10min"] < GROWTH_DESCRIPTORS
        and found["descriptors_after"] <= found["descriptors_before"],
        "no 500": not {"500", "INTERNAL", "UNKNOWN"} & set(seen),
        "no good request failed": not any(row["unexpected"] for row in found["kinds"] if row["good"]),
        "mistakes are told": not any(row["unexpected"] for row in found["kinds"] if not row["good"]),
        "nothing is in flight": found["in_flight_after"] == 0,
        "the log is empty": not log,
    }


def configured(directory: Path) -> tuple[Path, list[Any]]:
    """The configuration file of both models, and inputs of `mlp` with OpenVINO's own answers to them."""
    mlp = model_of("mlp", directory)
    x = op.parameter([-1, -1], np.float32, name="x")
    x.output(0).set_names({"x"})
    relu = op.relu(x)
    relu.output(0).set_names({"y"})
    ov.save_model(ov.Model([op.result(relu)], [x], "free"), directory / "free.xml")
    models = [
        {"config": {"name": name, "base_path": str(directory / f"{name}.xml"), "nireq": 2}} for name in ("mlp", "free")
    ]
    file = directory / "config.json"
    file.write_text(json.dumps({"model_config_list": models}))
    compiled = ov.Core().compile_model(mlp.file, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    inputs = np.random.default_rng(SEED).standard_normal((32, *mlp.shape)).astype(np.float32)
    return file, [(values, compiled(values)[0].copy()) for values in inputs]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=200, help="requests a second, all kinds together")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    machine = {**environment.record(), "load_at_start": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        file, answers = configured(Path(name))
        grpc_port, rest_port = free_ports(2)
        command = ["env", "MALLOC_TRIM_THRESHOLD_=131072", sys.executable, "-m", "loadproof_server.main"]
        command += ["--config_path", str(file), "--metrics_enable"]
        command += ["--port", str(grpc_port), "--rest_port", str(rest_port), "--log_level", "WARNING"]
        log = Path(name) / "server.log"
        with parties.started([*command, "--log_path", str(log)], ROOT, (grpc_port, rest_port)) as process:
            server = parties.Running(process, grpc_port, rest_port, lambda: 0.0)
            found = asyncio.run(soak(server, answers, chosen.minutes * 60, chosen.rate))
        said = log.read_text()
    held = checks(found, said)
    show(found, held, said)
    if chosen.out:
        limits = {"rss_mib_10min": GROWTH_MIB, "descriptors_10min": GROWTH_DESCRIPTORS, "confidence": CONFIDENCE}
        content = {"schema": 1, "proof": "soak", "date": time.strftime("%Y-%m-%d"), "environment": machine}
        content |= {"limits": limits, "holds": all(held.values()), "checks": held, **found}
        chosen.out.write_text(json.dumps(content) + "\n")
    return 0 if all(held.values()) else 1


def show(found: dict[str, Any], held: dict[str, bool], log: str) -> None:
    for row in found["kinds"]:
        came = ", ".join(f"{outcome} {number:,}" for outcome, number in row["outcomes"].items())
        print(f"{row['kind']:32}{row['unexpected'] or '':>6}  {came}")
    memory, files = found["rss_mib"], found["descriptors"]
    print(
        f"RSS {memory['least']:.1f} to {memory['most']:.1f} MiB, {memory['slope_10min']:+.3f} in ten minutes, at most "
        f"{memory['high_10min']:+.3f}; descriptors {found['descriptors_before']} before, {files['most']} at most, "
        f"{found['descriptors_after']} after; CPU {found['cpu_percent']} % of a core"
    )
    with suppress(IndexError):
        print(f"the server's log: {log.splitlines()[0]}", file=sys.stderr)
    for what, holds in held.items():
        print(f"{what}: {'holds' if holds else 'DOES NOT HOLD'}")


if __name__ == "__main__":
    sys.exit(main())
