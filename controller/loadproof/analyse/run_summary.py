"""From a run's directory to its RUN of summary.json: pure functions of what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loadproof import rundir
from loadproof.analyse import (
    audit,
    ceiling,
    checks,
    container,
    energy,
    generator,
    machine,
    search,
    served,
    statistics,
    steady,
    witnesses,
)
from loadproof.analyse.headroom import headroom
from loadproof.analyse.notes import notes
from loadproof.analyse.population import Bools, Records, Window
from loadproof.analyse.schema import (
    Bounds,
    Calibration,
    CutShort,
    Event,
    Limit,
    LogCounts,
    MeasuredWindow,
    OverLimit,
    Requests,
    RunSummary,
    Warmup,
)

Facts = Mapping[str, Any]


class Throughput(NamedTuple):
    """Good answers that came inside the window, whenever they were sent, over its seconds; what was offered beside."""

    rps: float | None = None
    ips: float | None = None
    bounds: Bounds | None = None
    offered_rps: float | None = None


def run(
    directory: Path,
    planned: Facts,
    calibration: Calibration | None = None,
    name: str = "",
    place: str = "",
    cost: Facts | None = None,
) -> RunSummary:
    """One RUN of summary.json; `planned` is its spec, for a run that died before its own was written.

    `calibration` is what campaign.json holds of the load generator's own ceiling and floor, `place` the run's directory
    below the campaign's, `cost` the plan's section.
    """
    facts = rundir.read_run(directory) or {}
    spec = facts.get("spec") or planned
    measure, load = _measured(spec.get("measure", {}), facts.get("cut_short")), spec.get("load", {})
    window = Window.of(measure.get("warmup_s", 0), measure.get("duration_s", 0))
    samples = rundir.read_samples(directory)
    records = Records(directory, is_open=load.get("arrivals", "closed") != "closed")
    good = records.measured & records.good
    service_ms = statistics.latency_ms(records.service_ns(good))
    seen = witnesses.observe(directory, facts, load, samples, records, service_ms, window)
    throughput = _throughput(records, window, load)
    limits = headroom(calibration, facts.get("workers", []), load, records, service_ms, window)
    figures = RunSummary(
        name=name,
        directory=place,
        verdict="VALID",
        reasons=[],
        notes=[],
        slo=[],
        repeat=facts.get("repeat", 1),
        spec=dict(spec),
        model=facts.get("model"),
        served_by=facts.get("server", {}).get("about"),
        requests=_requests(records, seen),
        errors=records.errors(records.measured),
        latency_ms=statistics.latency_ms(records.latency_ns(good)) if records.is_open else service_ms,
        service_latency_ms=service_ms if records.is_open else None,
        throughput_rps=throughput.rps,
        throughput_ips=throughput.ips,
        throughput_bounds=throughput.bounds,
        offered_rps=throughput.offered_rps,
        witnesses=seen.witnesses,
        reconcile=seen.reconcile,
        interference=seen.interference,
        accounts=seen.accounts,
        breakdown_ms=seen.breakdown_ms,
        over=_over(records, good, spec.get("slo", {})),
        steady=steady.steady(records, window),
        cold_start=steady.cold_start(records),
        littles_law=steady.littles_law(records, window),
        warmup=_warmup(records, window),
        generator=generator.state(directory, facts, records, window, limits),
        server_container=container.usage(facts, samples, window),
        machine=machine.state(samples, window, int(records.measured.sum())),
        audit=audit.audit(records),
        model_changes=served.changes(facts, samples),
        window=_window(facts, measure),
        log=LogCounts.model_validate(facts["log"]) if facts.get("log") else None,
        events=[Event.model_validate(event) for event in facts.get("events", [])],
        cut_short=CutShort.model_validate(facts["cut_short"]) if facts.get("cut_short") else None,
        complete=bool(facts),
        energy=energy.energy(facts.get("power"), samples, window, throughput.ips),
        ceiling=ceiling.ladder(facts.get("ceiling"), throughput.ips, seen.witnesses),
        value=energy.value(cost, throughput.ips),
    )
    return _judged(figures, facts, calibration)


def _requests(records: Records, seen: witnesses.Observed) -> Requests:
    counts = dict(records.counts(records.measured))
    return Requests(**counts, unaccounted=seen.unaccounted, lost_with_worker=seen.lost_with_worker)


def _judged(figures: RunSummary, facts: Facts, calibration: Calibration | None) -> RunSummary:
    """With the verdict and what else is said of the figures."""
    verdict, reasons = checks.judge(figures)
    said = {"notes": notes(facts, figures, calibration), "slo": slo(figures)}
    return figures.model_copy(update={"verdict": verdict, "reasons": reasons, **said})


def metrics(run: RunSummary) -> dict[str, float | None]:
    """The flat metric names of SLOs, gates and summary.csv: `p99_ms`, `throughput_rps`, `error_rate`, ..."""
    requests = run.requests
    return {
        **{f"{name}_ms": run.latency_ms[name] for name in ("mean", *statistics.PERCENTILES, "max")},
        "throughput_rps": run.throughput_rps,
        "throughput_ips": run.throughput_ips,
        "error_rate": requests.bad / requests.total if requests.total else None,
    }


def slo(run: RunSummary) -> list[Limit]:
    """Each limit of the plan beside its figure; a figure that too few requests stand behind does not keep its limit."""
    values = metrics(run)

    def keeps(metric: str, limit: float) -> bool:
        value = values[metric]
        return value is not None and (value >= limit if metric.startswith("throughput") else value <= limit)

    return [
        Limit(
            metric=metric,
            limit=limit,
            value=values[metric],
            ok=keeps(metric, limit),
            **(dict(run.over[metric]) if metric in run.over else {}),
        )
        for metric, limit in run.limits.items()
        if limit is not None
    ]


def row(run: RunSummary) -> dict[str, object]:
    """The run as a flat row of summary.csv: the same keys for every run."""
    counts = {"client": run.witnesses.client, "balancer": run.witnesses.balancer, "server": run.witnesses.server}
    keys = ("protocol", "transport", "via", "arrivals", "clients", "processes", "batch")
    return {
        "name": run.name,
        "repeat": run.repeat,
        "verdict": run.verdict,
        "reasons": " ".join(reason.code for reason in run.reasons),
        **{key: run.load.get(key) for key in keys},
        **dict(run.requests),
        **metrics(run),
        **{f"{name}_requests": witness.requests if witness else None for name, witness in counts.items()},
        "slo_ok": all(limit.ok for limit in run.slo),
    }


def _measured(measure: Facts, cut_short: Facts | None) -> Facts:
    """The plan's `[measure]`, with the window that there was: one that was cut short ends there."""
    return {**measure, "duration_s": cut_short["at_s"] - measure["warmup_s"]} if cut_short else measure


def _over(records: Records, good: Bools, limits: Mapping[str, float | None]) -> dict[str, OverLimit]:
    """For each percentile that has a limit: the requests of the window that were slower, or not good, or never sent."""
    measured = records.measured
    latency_ns = np.where(good[measured], records.latency_ns(measured), search.NEVER_NS)
    return {
        f"{name}_ms": OverLimit(**search.over(latency_ns, records.planned_ns[measured], limit, share))
        for name, share in statistics.PERCENTILES.items()
        if (limit := limits.get(f"{name}_ms")) is not None
    }


def _throughput(records: Records, window: Window, load: Facts) -> Throughput:
    if window.seconds <= 0 or not records.measured.any():
        return Throughput()
    inside = records.received_ns[records.good & window.holds(records.received_ns)]
    counts = np.bincount((inside - window.start) // 10**9, minlength=int(window.seconds))[: int(window.seconds)]
    bounds = statistics.mean_bounds(counts.astype(float))
    rate_rps = len(inside) / window.seconds
    return Throughput(
        rps=rate_rps,
        ips=rate_rps * (1 if load.get("batch", 1) == "none" else load.get("batch", 1)),
        bounds=Bounds(low=max(0.0, bounds[0]), high=bounds[1], confidence=statistics.CONFIDENCE) if bounds else None,
        offered_rps=int(window.holds(records.planned_ns).sum()) / window.seconds if records.is_open else None,
    )


def _warmup(records: Records, window: Window) -> Warmup:
    rows = records.phase("warmup")
    latency = statistics.latency_ms(records.latency_ns(rows & records.good))
    came = int((records.good & (records.received_ns >= 0) & (records.received_ns < window.start)).sum())
    return Warmup(
        **dict(records.counts(rows)),
        throughput_rps=came / window.start * 1e9 if window.start > 0 else None,
        mean_ms=latency.mean,
        p50_ms=latency.p50,
        max_ms=latency.max,
    )


def _window(facts: Facts, measure: Facts) -> MeasuredWindow:
    start, warmup_s = None, measure.get("warmup_s")
    if (t0_us := facts.get("t0_epoch_us")) is not None:
        moment = datetime.fromtimestamp(t0_us / 1e6 + (warmup_s or 0), UTC)
        start = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return MeasuredWindow(start=start, warmup_s=warmup_s, duration_s=measure.get("duration_s"))
