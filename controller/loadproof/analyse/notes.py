"""What the reader of a run should know and no verdict hangs on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadproof.analyse import headroom, statistics
from loadproof.analyse.formats import percent
from loadproof.analyse.schema import Calibration, RunSummary

Facts = Mapping[str, Any]


def notes(facts: Facts, run: RunSummary, calibration: Calibration | None) -> list[str]:
    """Sentences about a RUN's figures and how they came about (`facts`: its run.json)."""
    uncalibrated = headroom.note(calibration, run.load) if run.complete else None
    return [
        *facts.get("notes", []),
        *(f"A bound on what a server may answer was met: {met}." for met in facts.get("bounds_met", [])),
        *_answers(facts, run),
        *_audit(run),
        *_witnesses(facts, run),
        *_container(facts, run),
        *_clocks(facts),
        *_machine(run),
        *_cut(run),
        *_figures(run),
        *filter(None, [uncalibrated]),
    ]


def _answers(facts: Facts, run: RunSummary) -> Iterator[str]:
    source = (facts.get("references") or {}).get("source")
    verify = run.load.get("verify", 1)
    if source is None or not verify:
        yield "Answers were not compared with references: a wrong answer counts as a good one."
    elif source == "server":
        yield "References came from the server itself: answers are checked for consistency, not correctness."
    if source and 0 < verify < 1:
        yield f"{percent(verify)} of the answers were compared with references; the rest count as good."
    if number := run.errors.get("too_large"):
        limit = run.load.get("max_answer_mb")
        yield (
            f"{number:,} answers were over load.max_answer_mb = {limit} and were not read to their end: "
            "raise it where the model's answers are as large as that."
        )


def _audit(run: RunSummary) -> Iterator[str]:
    if (found := run.audit) is None or found.ratio is not None:
        return
    pairs, took_ms = min(found.fresh, found.repeated), found.fresh_ms
    if took_ms is None or took_ms >= 150:
        why = f"one takes {took_ms or 0:,.0f} ms"
    else:
        why = f"there are {pairs} distinct inputs"
    yield f"Whether repeated inputs are answered from a cache was not tested: {why}."


def _witnesses(facts: Facts, run: RunSummary) -> Iterator[str]:
    if not facts.get("server", {}).get("metrics", True):
        yield "The server shows no /metrics: its witness is missing; client and balancer are compared alone."
    if run.load.get("via") == "direct":
        yield "Clients reached the server directly: no balancer counted the requests."
    if run.has_event("server_died"):
        yield "The server's counters ended with it: what it counted after the last scrape before that is not known."
    if run.has_event("balancer_died"):
        yield "The balancer's counters and the end of its log were lost with it."


def _container(facts: Facts, run: RunSummary) -> Iterator[str]:
    if (seen := run.server_container) is None:
        return
    if seen.throttled_periods:
        yield (
            f"The server's container was held back by its CPU limit in {seen.throttled_periods} of the window's "
            f"{seen.periods} periods: the figures are those of the limit."
        )
    if not facts["server"]["container"].get("removed", True):
        yield (
            "The engine did not say that the server's container is gone. Its server is killed within half a minute "
            "after it last heard of the controller, and the engine removes it then."
        )


def _clocks(facts: Facts) -> Iterator[str]:
    workers = facts.get("workers", [])
    bounds_ms = [bound_ns / 1e6 for one in workers if (bound_ns := one.get("offset_bound_ns"))]
    if bounds_ms:
        yield (
            f"{len(bounds_ms)} of {len(workers)} workers read another clock than the balancer: beside the balancer's "
            f"stamps, as in the waterfall, theirs are right to within {max(bounds_ms):.3g} ms."
        )


def _cut(run: RunSummary) -> Iterator[str]:
    if cut := run.cut_short:
        yield (
            f"Cut short on purpose, {run.window.duration_s or 0:.1f} s into its window: {cut.over:,} of "
            f"{cut.of:,} requests were over {cut.metric} {cut.limit:g}, too many whatever had followed."
        )


def _machine(run: RunSummary) -> Iterator[str]:
    if run.machine is None:
        return
    if run.machine.other is None:
        yield "A party's processes are not to be seen from here: whether another load was on the machine is not known."
    if run.machine.wait_ms_per_request.get("server"):
        yield f"Server and load share this machine's {run.machine.cpus} CPUs: each one's figures depend on the other."


def _figures(run: RunSummary) -> Iterator[str]:
    good = run.requests.ok
    absent = {name: least for name, p in statistics.PERCENTILES.items() if good < (least := statistics.MINIMUM[p])}
    if good and absent:
        wanted = ", ".join(f"{name.replace('_', '.')} {least:,}" for name, least in absent.items())
        yield f"Too few good answers for these percentiles, and how many each needs: {wanted}."
