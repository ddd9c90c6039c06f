"""What the reader of a run should know and no verdict hangs on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from controller.analyse import statistics

Facts = Mapping[str, Any]


def notes(facts: Facts, result: Facts) -> list[str]:
    """Sentences about a RUN's figures (`result`) and how they came about (`facts`: its run.json)."""
    return [*facts.get("notes", []), *_answers(facts, result), *_witnesses(facts, result), *_figures(result)]


def _answers(facts: Facts, result: Facts) -> Iterator[str]:
    source = (facts.get("references") or {}).get("source")
    verify = result["spec"].get("load", {}).get("verify", 1)
    if source is None or not verify:
        yield "Answers were not compared with references: a wrong answer counts as a good one."
    elif source == "server":
        yield "References came from the server itself: answers are checked for consistency, not correctness."
    if source and 0 < verify < 1:
        yield f"{verify:.0%} of the answers were compared with references; the rest count as good."


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


def _figures(result: Facts) -> Iterator[str]:
    good = result["requests"]["ok"]
    absent = {name: least for name, p in statistics.PERCENTILES.items() if good < (least := statistics.MINIMUM[p])}
    if good and absent:
        wanted = ", ".join(f"{name.replace('_', '.')} {least:,}" for name, least in absent.items())
        yield f"Too few good answers for these percentiles, and how many each needs: {wanted}."
