"""From a run directory to the figures of summary.json: pure functions of what was recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from controller import rundir
from controller.analyse import checks, statistics, witnesses
from controller.analyse.population import Records, Window
from controller.errors import Exit


def campaign(directory: Path) -> dict[str, Any]:
    """The summary of every run that was begun; also writes it as summary.json and summary.csv.

    Raises RunDirectoryError where the directory is no campaign's or a file in it is broken.
    """
    facts = rundir.read_campaign(directory)
    planned = facts.get("runs", [])
    begun = [one for one in planned if (directory / one["directory"]).is_dir()]
    head = {key: value for key, value in facts.items() if key not in ("schema", "runs", "plan")}
    runs = [
        {"name": one["name"], "directory": one["directory"], **run(directory / one["directory"], one.get("spec", {}))}
        for one in begun
    ]
    summary = {
        "schema": rundir.SCHEMA,
        "campaign": {**head, "runs_planned": len(planned), "runs_missing": len(planned) - len(begun)},
        "runs": runs,
        "repeats": spread(runs),
    }
    rundir.write_summary(directory, summary, [row(one) for one in runs])
    return summary


def run(directory: Path, planned: Mapping[str, Any]) -> dict[str, Any]:
    """One RUN of summary.json; `planned` is its spec, for a run that died before its own was written."""
    facts = rundir.read_run(directory) or {}
    spec = facts.get("spec") or planned
    measure, load = spec.get("measure", {}), spec.get("load", {})
    window = Window.of(measure.get("warmup_s", 0), measure.get("duration_s", 0))
    records = Records(directory)
    latency_ms = statistics.latency_ms(records.latency_ns(records.measured & records.good))
    has_metrics = facts.get("server", {}).get("metrics", True)
    saw = witnesses.testimony(directory, load, has_metrics, records, latency_ms, window)
    throughput = _throughput(records, window)
    result = {
        "repeat": facts.get("repeat", 1),
        "spec": spec,
        "model": facts.get("model"),
        "requests": records.counts(records.measured) | {"unaccounted": saw.pop("unaccounted")},
        "errors": records.errors(),
        "latency_ms": latency_ms,
        "throughput_rps": throughput,
        "throughput_ips": None if throughput is None else throughput * load.get("batch", 1),
        **saw,
        "warmup": _warmup(records),
        "generator": _generator(directory, facts, records, window),
        "window": _window(facts, measure),
        "log": facts.get("log"),
        "events": facts.get("events", []),
        "complete": bool(facts),
    }
    verdict, reasons = checks.judge(result)
    judged = {"verdict": verdict, "reasons": reasons, "notes": _notes(facts, result, has_metrics), "slo": slo(result)}
    return judged | result


def metrics(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The flat metric names of SLOs, gates and summary.csv: `p99_ms`, `throughput_rps`, `error_rate`, ..."""
    counts, latency = result["requests"], result["latency_ms"]
    total = counts["sent"] + counts["unaccounted"]
    return {
        **{f"{name}_ms": latency[name] for name in ("mean", *statistics.PERCENTILES, "max")},
        "throughput_rps": result["throughput_rps"],
        "throughput_ips": result["throughput_ips"],
        "error_rate": (total - counts["ok"]) / total if total else None,
    }


def slo(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each limit of the plan beside its figure; a figure that too few requests stand behind does not keep its limit."""
    values = metrics(result)

    def keeps(metric: str, limit: float) -> bool:
        value = values[metric]
        return value is not None and (value >= limit if metric.startswith("throughput") else value <= limit)

    limits = {metric: limit for metric, limit in result["spec"].get("slo", {}).items() if limit is not None}
    return [
        {"metric": metric, "limit": limit, "value": values[metric], "ok": keeps(metric, limit)}
        for metric, limit in limits.items()
    ]


def spread(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each spec that ran more than once: its runs, and [min, median, max] of each metric that all of them have."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for one in runs:
        alike.setdefault(json.dumps(one["spec"], sort_keys=True), []).append(one)
    return [
        {"runs": [one["name"] for one in group], "metrics": _spread([metrics(one) for one in group])}
        for group in alike.values()
        if len(group) > 1
    ]


def exit_code(summary: Mapping[str, Any]) -> Exit:
    """INVALID comes before a broken SLO: a figure that can't be trusted neither keeps nor breaks a limit."""
    runs = summary["runs"]
    if not runs or any(one["verdict"] == "INVALID" for one in runs):
        return Exit.INVALID
    return Exit.GATE if any(not limit["ok"] for one in runs for limit in one["slo"]) else Exit.GOOD


def row(result: Mapping[str, Any]) -> dict[str, Any]:
    """The run as a flat row of summary.csv: the same keys for every run."""
    load = result["spec"].get("load", {})
    seen = {name: (witness or {}).get("requests") for name, witness in result["witnesses"].items()}
    return {
        "name": result["name"],
        "repeat": result["repeat"],
        "verdict": result["verdict"],
        "reasons": " ".join(reason["code"] for reason in result["reasons"]),
        **{key: load.get(key) for key in ("protocol", "transport", "via", "arrivals", "clients", "processes", "batch")},
        **result["requests"],
        **metrics(result),
        **{f"{name}_requests": count for name, count in seen.items()},
        "slo_ok": all(limit["ok"] for limit in result["slo"]),
    }


def _spread(rows: Sequence[Mapping[str, float | None]]) -> dict[str, list[float]]:
    columns = {name: [value for one in rows if (value := one[name]) is not None] for name in rows[0]}
    return {
        name: [min(values), float(np.median(values)), max(values)]
        for name, values in columns.items()
        if len(values) == len(rows)
    }


def _throughput(records: Records, window: Window) -> float | None:
    """Good answers that came inside the window, whenever they were sent, over its seconds."""
    if window.end <= window.start or not records.measured.any():
        return None
    inside = (records.received_ns >= window.start) & (records.received_ns < window.end) & records.good
    return float(inside.sum() / (window.end - window.start) * 1e9)


def _warmup(records: Records) -> dict[str, Any]:
    rows = records.phase("warmup")
    latency = statistics.latency_ms(records.latency_ns(rows & records.good))
    return {**records.counts(rows), "mean_ms": latency["mean"], "p50_ms": latency["p50"], "max_ms": latency["max"]}


def _generator(directory: Path, facts: Mapping[str, Any], records: Records, window: Window) -> dict[str, Any]:
    """The load generator's own state inside the window; CPU in percent of one core, of its busiest worker."""
    table = rundir.read_generator(directory)
    time_ns = table["time_s"].to_numpy() * 1e9
    # A reading tells of the second before it.
    inside = (time_ns > window.start) & (time_ns <= window.end + 1e9)
    cpu, worker = table["cpu_percent"].to_numpy()[inside], table["worker"].to_numpy()[inside]
    medians = [float(np.median(cpu[worker == one])) for one in np.unique(worker)]
    lateness = np.sort(records.sent_ns[records.measured] - records.planned_ns[records.measured])
    late = statistics.nearest_rank(lateness, 0.99)
    return {
        "workers": len(facts.get("workers", [])),
        "cpu_percent_max": float(cpu.max()) if len(cpu) else None,
        "cpu_percent_median": max(medians, default=None),
        "rss_bytes_max": int(table["rss_bytes"].to_numpy().max()) if table.num_rows else None,
        "in_flight_max": int(table["in_flight"].to_numpy()[inside].max()) if len(cpu) else None,
        "lateness_ms_p99": None if late is None else late / 1e6,
    }


def _window(facts: Mapping[str, Any], measure: Mapping[str, Any]) -> dict[str, Any]:
    """When the window began (UTC, null when no load did) and its lengths."""
    start, warmup_s = None, measure.get("warmup_s")
    if (t0_us := facts.get("t0_epoch_us")) is not None:
        moment = datetime.fromtimestamp(t0_us / 1e6 + (warmup_s or 0), UTC)
        start = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"start": start, "warmup_s": warmup_s, "duration_s": measure.get("duration_s")}


def _notes(facts: Mapping[str, Any], result: Mapping[str, Any], has_metrics: bool) -> list[str]:
    """What the reader should know and no verdict hangs on."""
    notes = list(facts.get("notes", []))
    load, good = result["spec"].get("load", {}), result["requests"]["ok"]
    source, verify = (facts.get("references") or {}).get("source"), load.get("verify", 1)
    if source is None or not verify:
        notes.append("Answers were not compared with references: a wrong answer counts as a good one.")
    elif source == "server":
        notes.append("References came from the server itself: answers are checked for consistency, not correctness.")
    if source and 0 < verify < 1:
        notes.append(f"{verify:.0%} of the answers were compared with references; the rest count as good.")
    if not has_metrics:
        notes.append("The server shows no /metrics: its witness is missing; client and balancer are compared alone.")
    if load.get("via") == "direct":
        notes.append("Clients reached the server directly: no balancer bears witness.")
    absent = {name: least for name, p in statistics.PERCENTILES.items() if good < (least := statistics.MINIMUM[p])}
    if good and absent:
        wanted = ", ".join(f"{name.replace('_', '.')} {least:,}" for name, least in absent.items())
        notes.append(f"Too few good answers for these percentiles, and how many each needs: {wanted}.")
    return notes
