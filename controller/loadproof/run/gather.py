"""Gathers what the programs of a run left behind, and what was seen of them, into its run directory."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loadproof import rundir
from loadproof.collect import balancer_log
from loadproof.collect.balancer_log import Tally
from loadproof.launch.component import Component
from loadproof.run.observations import Observations, ServerObserved
from loadproof_clients.records import RECORD, UNKNOWN_NS

PREPARATION = 0  # the worker number in the ids of the requests that took the references


def write(seen: Observations) -> None:
    """Write every table of the run directory that there is something for, then run.json, then remove `work`."""
    directory, work = seen.directory, seen.work
    t0_ns = seen.t0.monotonic_ns if seen.t0 else time.monotonic_ns()
    rundir.write_requests(directory, rundir.request_tables(seen.run_id, read_records(work, t0_ns)))
    tally = None
    if seen.balancer and seen.balancer.requests_log.exists():
        tally = write_balancer(directory, seen.balancer.requests_log)
    sampled = [one.table(t0_ns) for one in (seen.scraper, seen.power_meter) if one]
    component = seen.server and seen.server.target.component
    if component and (of_server := component.samples(t0_ns)) is not None:
        sampled.append(of_server)
    if sampled:
        rundir.write_samples(directory, pa.concat_tables(sampled).unify_dictionaries().sort_by("time"))
    rundir.write_generator(directory, _generator(work / "generator.jsonl"))
    rundir.write_run(directory, _facts(seen, tally))
    shutil.rmtree(work)


def write_end(seen: Observations) -> None:
    """run.json alone, of a run whose tables could not all be written; what `work` holds of them stays there."""
    rundir.write_run(seen.directory, _facts(seen, None))


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
    rows = list(_whole_lines(path)) if path.exists() else []
    return {name: [row.get(name) for row in rows] for name in rundir.GENERATOR.names}


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """A killed master, or one whose disk was full, may leave a part of a line."""
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            yield dict(json.loads(line))


def _load(seen: Observations) -> tuple[list[Any], list[str]]:
    """The master's facts of its workers, and its notes; a file that is not whole ended the run before its time."""
    path = seen.work / "load.json"
    if not path.exists():
        return [], []
    try:
        saved = json.loads(path.read_text())
        return list(saved["workers"]), list(saved["notes"])
    except (ValueError, KeyError, TypeError):
        seen.event("interrupted", f"{path.name} of the load was not written whole")
        return [], []


def _facts(seen: Observations, tally: Tally | None) -> dict[str, Any]:
    model = seen.model.model_dump(mode="json") if seen.model else None
    workers, notes = _load(seen)
    return {
        "name": seen.run.name,
        "spec": seen.run.spec(),
        "repeat": seen.run.repeat,
        "t0_epoch_us": seen.t0.epoch_us if seen.t0 else None,
        "t0_monotonic_ns": seen.t0.monotonic_ns if seen.t0 else None,
        "planned": seen.planned,
        "model": model,
        "references": seen.references,
        "workers": workers,
        "events": seen.events,
        "notes": [*_scrape_notes(seen), *notes],
        "bounds_met": [
            *(seen.scraper.bounds_met if seen.scraper else ()),
            *(seen.server.target.bounds_met if seen.server else ()),
        ],
        "server": _server(seen.server),
        "balancer": _component(seen.balancer.component) if seen.balancer else None,
        "ceiling": seen.ceiling,
        "cut_short": seen.early_failure.found if seen.early_failure else None,
        "power": seen.power_meter.facts() if seen.power_meter else None,
        "log": {"lines": tally.rows, "unread": tally.unread, "dropped": tally.dropped, "bad": tally.bad}
        if tally
        else None,
        "end": seen.end,
    }


def _server(server: ServerObserved | None) -> dict[str, Any]:
    """Facts of the server. A run that never reached one has metrics: nothing says that there are none."""
    if server is None:
        return {"metrics": True, "about": None, "served": [], "command": None}
    component = server.target.component
    return {
        "metrics": server.target.metrics_url is not None,
        "about": server.about,
        "served": server.served,
        **(_component(component) if component else {"command": None}),
    }


def _component(component: Component) -> dict[str, Any]:
    return {"command": component.command, **component.facts()}


def _scrape_notes(seen: Observations) -> list[str]:
    failures = seen.scraper.failures if seen.scraper else []
    if not failures:
        return []
    some = "1 scrape" if len(failures) == 1 else f"{len(failures)} scrapes"
    return [f"{some} of /metrics failed; the first: {failures[0].source}: {failures[0].message}"]
