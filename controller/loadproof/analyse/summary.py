"""From a run directory to the figures of summary.json: pure functions of what was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from loadproof import rundir
from loadproof.analyse import (
    audit,
    ceiling,
    checks,
    container,
    energy,
    generator,
    headroom,
    machine,
    search,
    served,
    statistics,
    steady,
    sweet_spot,
    tune,
    witnesses,
)
from loadproof.analyse.notes import notes
from loadproof.analyse.population import Bools, Records, Window
from loadproof.errors import Exit


def campaign(directory: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The summary of every run that was begun; also writes it as summary.json and summary.csv.

    `known` is an earlier summary of this campaign: the runs that it has are taken from it, not analysed again.
    Raises RunDirectoryError where the directory is no campaign's or a file in it is broken.
    """
    facts = rundir.read_campaign(directory)
    # in the plan's order: in which they ran is in the directories' numbers
    planned = sorted(facts.get("runs", []), key=lambda one: (one.get("point", 1), one.get("repeat", 1)))
    begun = [one for one in planned if (directory / one["directory"]).is_dir()]
    head = {key: value for key, value in facts.items() if key not in ("schema", "runs", "plan")}
    done = {one["directory"]: one for one in known["runs"]} if known else {}
    plan, calibration = facts.get("plan", {}), facts.get("calibration")
    runs = [done.get(one["directory"]) or _named_run(directory, one, calibration) for one in begun]
    runs = [one | {"value": energy.value(plan.get("cost"), one["throughput_ips"])} for one in runs]
    summary = {
        "schema": rundir.SCHEMA,
        "campaign": {**head, "runs_planned": len(planned), "runs_missing": len(planned) - len(begun)},
        "runs": runs,
        "repeats": spread(runs),
        "search": search.answer(wanted, runs) if (wanted := plan.get("search")) else None,
        "tune": tune.answer(plan, runs) if plan.get("tune") else None,
        "sweet_spot": sweet_spot.answer(plan, runs),
    }
    rundir.write_summary(directory, summary, [row(one) for one in runs])
    return summary


def run(directory: Path, planned: Mapping[str, Any], calibration: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One RUN of summary.json; `planned` is its spec, for a run that died before its own was written.

    `calibration` is what campaign.json holds of the load generator's own ceiling and floor.
    """
    facts = rundir.read_run(directory) or {}
    spec = facts.get("spec") or planned
    measure, load = _measured(spec.get("measure", {}), facts.get("cut_short")), spec.get("load", {})
    window = Window.of(measure.get("warmup_s", 0), measure.get("duration_s", 0))
    samples = rundir.read_samples(directory)
    records = Records(directory, is_open=load.get("arrivals", "closed") != "closed")
    good = records.measured & records.good
    service_ms = statistics.latency_ms(records.service_ns(good))
    saw = witnesses.testimony(directory, facts, load, samples, records, service_ms, window)
    result = {
        "repeat": facts.get("repeat", 1),
        "spec": spec,
        "model": facts.get("model"),
        "served_by": facts.get("server", {}).get("about"),
        "requests": records.counts(records.measured) | saw.pop("orphans"),
        "errors": records.errors(records.measured),
        "latency_ms": statistics.latency_ms(records.latency_ns(good)) if records.is_open else service_ms,
        "service_latency_ms": service_ms if records.is_open else None,
        **_throughput(records, window, load),
        **saw,
        "over": _over(records, good, spec.get("slo", {})),
        "steady": steady.steady(records, window),
        "cold_start": steady.cold_start(records),
        "littles_law": steady.littles_law(records, window),
        "warmup": _warmup(records, window),
        "generator": generator.state(directory, facts, records, window)
        | headroom.beside(calibration, facts, load, records, service_ms, window),
        "server_container": container.usage(facts, samples, window),
        "machine": machine.state(samples, window, int(records.measured.sum())),
        "audit": audit.audit(records),
        "model_changes": served.changes(facts, samples),
        "window": _window(facts, measure),
        "log": facts.get("log"),
        "events": facts.get("events", []),
        "cut_short": facts.get("cut_short"),
        "complete": bool(facts),
    }
    ips = result["throughput_ips"]
    result["energy"] = energy.energy(facts.get("power"), samples, window, ips)
    result["ceiling"] = ceiling.ladder(facts.get("ceiling"), result)
    verdict, reasons = checks.judge(result)
    return {
        "verdict": verdict,
        "reasons": reasons,
        "notes": notes(facts, result, calibration),
        "slo": slo(result),
    } | result


def _measured(measure: Mapping[str, Any], cut_short: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The plan's `[measure]`, with the window that there was: one that was cut short ends there."""
    return {**measure, "duration_s": cut_short["at_s"] - measure["warmup_s"]} if cut_short else measure


def _named_run(directory: Path, one: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    names = {"name": one["name"], "directory": one["directory"]}
    return names | run(directory / one["directory"], one.get("spec", {}), calibration)


def metrics(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The flat metric names of SLOs, gates and summary.csv: `p99_ms`, `throughput_rps`, `error_rate`, ..."""
    counts, latency = result["requests"], result["latency_ms"]
    total = sum(counts[name] for name in ("sent", "unsent", "unaccounted", "lost_with_worker"))
    return {
        **{f"{name}_ms": latency[name] for name in ("mean", *statistics.PERCENTILES, "max")},
        "throughput_rps": result["throughput_rps"],
        "throughput_ips": result["throughput_ips"],
        "error_rate": (total - counts["ok"]) / total if total else None,
    }


def slo(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each limit of the plan beside its figure; a figure that too few requests stand behind does not keep its limit.

    With a percentile's limit comes how many requests were `over` it, `of` how many, and how many independent ones
    these are `worth`.
    """
    values, over = metrics(result), result["over"]

    def keeps(metric: str, limit: float) -> bool:
        value = values[metric]
        return value is not None and (value >= limit if metric.startswith("throughput") else value <= limit)

    limits = {metric: limit for metric, limit in result["spec"].get("slo", {}).items() if limit is not None}
    return [
        {"metric": metric, "limit": limit, "value": values[metric], "ok": keeps(metric, limit), **over.get(metric, {})}
        for metric, limit in limits.items()
    ]


def spread(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each spec that ran more than once: its runs, and [min, median, max] of each metric that all of them have."""
    return [
        {"runs": [one["name"] for one in group], "metrics": _spread([metrics(one) for one in group])}
        for group in sweet_spot.alike(runs)
        if len(group) > 1
    ]


def exit_code(summary: Mapping[str, Any]) -> Exit:
    """INVALID comes before a broken SLO: a figure that can't be trusted neither keeps nor breaks a limit.

    Of a search or tuning only the runs of its answer count; without an answer nothing kept the SLO.
    """
    chosen = summary.get("search") or summary.get("tune")
    if chosen is not None and _best_runs(summary) is None and summary["runs"]:
        return Exit.GATE
    runs = answering(summary)
    if not runs or any(one["verdict"] == "INVALID" for one in runs):
        return Exit.INVALID
    if chosen is not None:
        return Exit.GOOD
    return Exit.GATE if any(not limit["ok"] for one in runs for limit in one["slo"]) else Exit.GOOD


def answering(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The runs that a campaign's verdict is of: all; or those of a search's or tuning's answer: others have to fail."""
    names = _best_runs(summary)
    return [run for run in summary["runs"] if names is None or run["name"] in names]


def _best_runs(summary: Mapping[str, Any]) -> list[str] | None:
    """The names of the runs of a search's or tuning's answer; None where there is none."""
    if search := summary.get("search"):
        return next((level["runs"] for level in search["levels"] if level["value"] == search["highest"]), None)
    if not (summary.get("tune") and summary["sweet_spot"]):
        return None
    spot = summary["sweet_spot"]
    return next((one["runs"] for one in spot["configurations"] if one["name"] == spot["best"]), None)


def next_settings(plan: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a search or tuning measures next, `section.key` and value, after the summary's runs; None: nothing."""
    if plan.get("search"):
        return search.next_settings(plan, runs)
    return tune.next_settings(plan, runs) if plan.get("tune") else None


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


def _over(records: Records, good: Bools, limits: Mapping[str, float | None]) -> dict[str, dict[str, float]]:
    """For each percentile that has a limit: the requests of the window that were slower, or not good, or never sent."""
    measured = records.measured
    latency_ns = np.where(good[measured], records.latency_ns(measured), search.NEVER_NS)
    return {
        f"{name}_ms": search.over(latency_ns, records.planned_ns[measured], limit, share)
        for name, share in statistics.PERCENTILES.items()
        if (limit := limits.get(f"{name}_ms")) is not None
    }


def _throughput(records: Records, window: Window, load: Mapping[str, Any]) -> dict[str, Any]:
    """Good answers that came inside the window, whenever they were sent, over its seconds; what was offered beside."""
    if window.seconds <= 0 or not records.measured.any():
        names = ("throughput_rps", "throughput_ips", "throughput_bounds", "offered_rps")
        return dict.fromkeys(names)
    inside = records.received_ns[records.good & window.holds(records.received_ns)]
    counts = np.bincount((inside - window.start) // 10**9, minlength=int(window.seconds))[: int(window.seconds)]
    bounds = statistics.mean_bounds(counts.astype(float))
    rate_rps = len(inside) / window.seconds
    return {
        "throughput_rps": rate_rps,
        "throughput_ips": rate_rps * load.get("batch", 1),
        "throughput_bounds": {"low": max(0.0, bounds[0]), "high": bounds[1], "confidence": statistics.CONFIDENCE}
        if bounds
        else None,
        "offered_rps": int(window.holds(records.planned_ns).sum()) / window.seconds if records.is_open else None,
    }


def _warmup(records: Records, window: Window) -> dict[str, Any]:
    rows = records.phase("warmup")
    latency = statistics.latency_ms(records.latency_ns(rows & records.good))
    came = int((records.good & (records.received_ns >= 0) & (records.received_ns < window.start)).sum())
    return {
        **records.counts(rows),
        "throughput_rps": came / window.start * 1e9 if window.start > 0 else None,
        "mean_ms": latency["mean"],
        "p50_ms": latency["p50"],
        "max_ms": latency["max"],
    }


def _window(facts: Mapping[str, Any], measure: Mapping[str, Any]) -> dict[str, Any]:
    """When the window began (UTC, null when no load did) and its lengths."""
    start, warmup_s = None, measure.get("warmup_s")
    if (t0_us := facts.get("t0_epoch_us")) is not None:
        moment = datetime.fromtimestamp(t0_us / 1e6 + (warmup_s or 0), UTC)
        start = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"start": start, "warmup_s": warmup_s, "duration_s": measure.get("duration_s")}
