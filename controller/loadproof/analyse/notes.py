"""What the reader of a run should know and no verdict hangs on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadproof.analyse import headroom, statistics
from loadproof.analyse.words import percent

Facts = Mapping[str, Any]


def notes(facts: Facts, result: Facts, calibration: Facts | None) -> list[str]:
    """Sentences about a RUN's figures (`result`) and how they came about (`facts`: its run.json)."""
    uncalibrated = headroom.note(calibration, result["spec"].get("load", {})) if result["complete"] else None
    told = facts.get("notes", [])
    return [
        *told,
        *_answers(facts, result),
        *_audit(result),
        *_witnesses(facts, result),
        *_container(facts, result),
        *_clocks(facts),
        *_machine(result),
        *_cut(facts, result),
        *_figures(result),
        *filter(None, [uncalibrated]),
    ]


def _answers(facts: Facts, result: Facts) -> Iterator[str]:
    source = (facts.get("references") or {}).get("source")
    verify = result["spec"].get("load", {}).get("verify", 1)
    if source is None or not verify:
        yield "Answers were not compared with references: a wrong answer counts as a good one."
    elif source == "server":
        yield "References came from the server itself: answers are checked for consistency, not correctness."
    if source and 0 < verify < 1:
        yield f"{percent(verify)} of the answers were compared with references; the rest count as good."


def _audit(result: Facts) -> Iterator[str]:
    found = result.get("audit")
    if found is None or found["ratio"] is not None:
        return
    pairs, took_ms = min(found["fresh"], found["repeated"]), found["fresh_ms"]
    why = (
        f"there are {pairs} distinct inputs"
        if took_ms is not None and took_ms < 150
        else f"one takes {took_ms:,.0f} ms"
    )
    yield f"Whether repeated inputs are answered from a cache was not tested: {why}."


def _witnesses(facts: Facts, result: Facts) -> Iterator[str]:
    if not facts.get("server", {}).get("metrics", True):
        yield "The server shows no /metrics: its witness is missing; client and balancer are compared alone."
    if result["spec"].get("load", {}).get("via") == "direct":
        yield "Clients reached the server directly: no balancer bears witness."
    codes = {event["code"] for event in result["events"]}
    if "server_died" in codes:
        yield "The server's counters ended with it: what it counted after the last scrape before that is not known."
    if "balancer_died" in codes:
        yield "The balancer's counters and the end of its log were lost with it."


def _container(facts: Facts, result: Facts) -> Iterator[str]:
    if (seen := result.get("server_container")) is None:
        return
    if seen["throttled_periods"]:
        yield (
            f"The server's container was held back by its CPU limit in {seen['throttled_periods']} of the window's "
            f"{seen['periods']} periods: the figures are those of the limit."
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


def _cut(facts: Facts, result: Facts) -> Iterator[str]:
    if cut := facts.get("cut_short"):
        yield (
            f"Cut short on purpose, {result['window']['duration_s']:.1f} s into its window: {cut['over']:,} of "
            f"{cut['of']:,} requests were over {cut['metric']} {cut['limit']:g}, too many whatever had followed."
        )


def _machine(result: Facts) -> Iterator[str]:
    machine = result.get("machine")
    if machine is None:
        return
    if machine["other"] is None:
        yield "A party's processes are not to be seen from here: whether another load was on the machine is not known."
    if machine["wait_ms_per_request"].get("server"):
        yield f"Server and load share this machine's {machine['cpus']} CPUs: each one's figures depend on the other."


def _figures(result: Facts) -> Iterator[str]:
    good = result["requests"]["ok"]
    absent = {name: least for name, p in statistics.PERCENTILES.items() if good < (least := statistics.MINIMUM[p])}
    if good and absent:
        wanted = ", ".join(f"{name.replace('_', '.')} {least:,}" for name, least in absent.items())
        yield f"Too few good answers for these percentiles, and how many each needs: {wanted}."
