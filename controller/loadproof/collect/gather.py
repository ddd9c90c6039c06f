"""Gathers what the parties of a run left behind into its run directory."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loadproof import rundir
from loadproof.collect import balancer_log
from loadproof.collect.balancer_log import Tally
from loadproof.collect.early import Failing
from loadproof.collect.machine import Machine
from loadproof.collect.power import PowerMeter
from loadproof.collect.scrape import Scraper
from loadproof.launch.party import Party
from loadproof.models import Model
from loadproof.plan import Run
from loadproof_clients.records import RECORD, UNKNOWN_NS

PREPARATION = 0  # the worker number in the ids of the requests that took the references


@dataclass
class Seen:
    """What the controller itself saw of a run while it went on."""

    run: Run
    run_id: str
    directory: Path
    model: Model | None
    t0_monotonic_ns: int | None = None
    t0_epoch_us: int | None = None
    planned: int | None = None  # how many requests an open loop's plan has
    machine: Machine = field(default_factory=Machine)
    scraper: Scraper | None = None
    requests_log: Path | None = None
    ceiling: dict[str, Any] | None = None
    power_meter: PowerMeter | None = None
    failing: Failing | None = None
    cut_short: dict[str, Any] | None = None  # what showed that a search's level fails, and when
    next_look_s: float = 0
    server: Party | None = None
    server_has_metrics: bool = True
    server_about: dict[str, str] | None = None
    served: list[dict[str, Any] | None] = field(default_factory=list)  # what it said of its model: before, after
    balancer: Party | None = None
    references: dict[str, str | None] = field(default_factory=lambda: {"source": None, "error": None})
    events: list[dict[str, Any]] = field(default_factory=list)
    load_error: str | None = None
    workers_from_elsewhere: bool = False

    @property
    def logs(self) -> Path:
        return rundir.logs(self.directory)

    @property
    def campaign(self) -> str:
        """The name of the campaign's directory."""
        return self.directory.parents[1].resolve().name

    @property
    def work(self) -> Path:
        """Where the parties leave their files; gone once they are collected."""
        return self.directory / "work"

    def event(self, code: str, message: str) -> None:
        """Something that the verdict has to know; the codes are those of loadproof/analyse/checks."""
        elapsed_s = None if self.t0_monotonic_ns is None else (time.monotonic_ns() - self.t0_monotonic_ns) / 1e9
        self.events.append({"time_s": elapsed_s, "code": code, "message": message})

    def has(self, code: str) -> bool:
        """True when such an event was seen."""
        return any(event["code"] == code for event in self.events)


def write(seen: Seen) -> None:
    """Write every table of the run directory that there is something for, then run.json, then remove `work`."""
    directory, work = seen.directory, seen.work
    t0_ns = seen.t0_monotonic_ns if seen.t0_monotonic_ns is not None else time.monotonic_ns()
    rundir.write_requests(directory, rundir.request_tables(seen.run_id, read_records(work, t0_ns)))
    tally = None
    if seen.requests_log and seen.requests_log.exists():
        tally = write_balancer(directory, seen.requests_log)
    sampled = [one.table(t0_ns) for one in (seen.scraper, seen.power_meter) if one]
    if seen.server and (of_server := seen.server.samples(t0_ns)) is not None:
        sampled.append(of_server)
    if sampled:
        rundir.write_samples(directory, pa.concat_tables(sampled).unify_dictionaries().sort_by("time"))
    rundir.write_generator(directory, _generator(work / "generator.jsonl"))
    rundir.write_run(directory, _facts(seen, tally))
    shutil.rmtree(work)


def write_balancer(directory: Path, log: Path) -> Tally:
    """The balancer's raw log as balancer.parquet, piece by piece; what became of its lines."""
    tallies = [Tally()]

    def tables() -> Iterator[pa.Table]:
        for table, tally in balancer_log.pieces(log):
            tallies.append(tally)
            yield table

    rundir.write_balancer(directory, tables())
    return sum(tallies, Tally())


def read_records(work: Path, t0_ns: int) -> dict[int, NDArray[np.void]]:
    """Each worker's records, times from T0; those of the references were written before there was a T0."""
    records = {
        int(path.stem.rpartition("-")[2]): _read(path) for path in sorted((work / "records").glob("worker-*.rec"))
    }
    references = _read(work / "reference.rec")
    for name in ("planned_ns", "sent_ns", "first_byte_ns", "received_ns"):
        references[name][references[name] != UNKNOWN_NS] -= t0_ns
    return {PREPARATION: references, **records} if len(references) else records


def _read(path: Path) -> NDArray[np.void]:
    """The whole records of a file; a killed worker may leave a part of one at the end."""
    if not path.exists():
        return np.empty(0, RECORD)
    return np.fromfile(path, RECORD, count=path.stat().st_size // RECORD.itemsize)


def _generator(path: Path) -> dict[str, list[Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {name: [row.get(name) for row in rows] for name in rundir.GENERATOR.names}


def _facts(seen: Seen, tally: Tally | None) -> dict[str, Any]:
    load = seen.work / "load.json"
    model = seen.model.model_dump(mode="json") if seen.model else None
    return {
        "name": seen.run.name,
        "spec": seen.run.spec(),
        "repeat": seen.run.repeat,
        "t0_epoch_us": seen.t0_epoch_us,
        "t0_monotonic_ns": seen.t0_monotonic_ns,
        "planned": seen.planned,
        "model": model,
        "references": seen.references,
        "workers": json.loads(load.read_text())["workers"] if load.exists() else [],
        "events": seen.events,
        "notes": _scrape_notes(seen),
        "server": {
            "metrics": seen.server_has_metrics,
            "about": seen.server_about,
            "served": seen.served,
            **(_party(seen.server) or {"command": None}),
        },
        "balancer": _party(seen.balancer),
        "ceiling": seen.ceiling,
        "cut_short": seen.cut_short,
        "power": seen.power_meter.facts() if seen.power_meter else None,
        "log": {"lines": tally.rows, "unread": tally.unread, "dropped": tally.dropped, "bad": tally.bad}
        if tally
        else None,
    }


def _party(party: Party | None) -> dict[str, Any] | None:
    return {"command": party.command, **party.facts()} if party else None


def _scrape_notes(seen: Seen) -> list[str]:
    failures = seen.scraper.failures if seen.scraper else []
    if not failures:
        return []
    some = "1 scrape" if len(failures) == 1 else f"{len(failures)} scrapes"
    return [f"{some} of /metrics failed; the first: {failures[0].source}: {failures[0].message}"]
