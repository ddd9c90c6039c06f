"""Figures and facts in words."""

from __future__ import annotations

from typing import Any

import pytest

from loadproof.analyse import RunSummary
from loadproof.analyse.schema import (
    BucketLatency,
    Energy,
    SearchAnswer,
    ServerWitness,
    Trend,
    TuneAnswer,
    Witness,
    Witnesses,
)
from loadproof.report import display
from tests.controller.summaries import run_summary


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (0.0, "0"),
        (0.7541, "0.754"),
        (0.9999, "1.00"),
        (8.009, "8.01"),
        (12.27, "12.3"),
        (474.8, "475"),
        (12345.6, "12,346"),
        (-0.5, "-0.500"),
    ],
)
def test_a_figure_has_three_digits_or_so(value: float | None, text: str) -> None:
    assert display.figure(value) == text


def test_bounds_that_are_open_say_so() -> None:
    latency = run_summary(latency_ms={"low": {"p50": 1.0, "p99": 2.0}, "high": {"p50": 1.5}}).latency_ms
    assert [display.bounds(latency, name) for name in ("p50", "p99", "p99_9")] == ["1.00 to 1.50", "2.00 or more", "—"]


def test_a_witness_is_exact_or_a_bucket() -> None:
    assert [display.of_witness(value) for value in (8.5, (6.4, 11.6), (90.0, None), None)] == [
        "8.50",
        "6.40 to 11.6",
        "over 90.0",
        "—",
    ]


def run(client: int, balancer: int | None, rows: int | None, server: int, differences: list[str]) -> RunSummary:
    latency = run_summary().witnesses.client.latency_ms
    buckets = BucketLatency(**dict.fromkeys(BucketLatency.model_fields))
    witnesses = Witnesses(
        client=Witness(requests=client, latency_ms=latency),
        balancer=None if balancer is None else Witness(requests=balancer, latency_ms=latency),
        server=ServerWitness(requests=server, failed=0, latency_ms=buckets),
    )
    return run_summary(witnesses=witnesses, reconcile={"differences": differences, "balancer_rows": rows})


def test_agreement_has_an_equals_sign_only_between_equal_counts() -> None:
    assert display.agreement(run(5, 5, 5, 5, [])) == "client 5 = balancer 5 = server 5"
    assert display.agreement(run(5, None, None, 5, [])) == "client 5 = server 5"
    assert display.agreement(run(6, 5, 5, 5, [])) == "client 6, balancer 5 = server 5"
    assert display.agreement(run(5, 5, 5, 8, ["x"])) == "client 5 = balancer 5 ≠ server 8"
    assert display.agreement(run(5, 5, 4, 5, ["x"])).endswith(" ≠ balancer's log 4")


def test_a_campaign_is_as_good_as_its_worst_run() -> None:
    valid, flagged, invalid = (run_summary(verdict=verdict) for verdict in ("VALID", "FLAGGED", "INVALID"))
    assert display.verdict([valid, invalid, flagged]) == "INVALID"
    assert display.verdict([valid, flagged]) == "FLAGGED"
    assert display.verdict([]) == "INVALID"


def test_the_environment_takes_a_line_a_fact() -> None:
    facts = {"cores": 2, "memory_bytes": 2**33, "packages": {"a": "1", "b": "2"}, "hosts": ["x", "y"], "none": None}
    assert list(display.environment(facts)) == [
        ("cores", "2"),
        ("memory", "8.0 GiB"),
        ("packages", "a 1, b 2"),
        ("hosts", "x, y"),
    ]


def test_the_load_is_told_in_a_line() -> None:
    spec = {"load": {"clients": 1, "processes": 1, "protocol": "rest", "via": "direct", "batch": 4}}
    assert display.load(spec) == "1 client in 1 process, closed loop, KServe v2, REST, direct, batch 4"


def test_settings_leave_out_what_is_empty_and_write_tables_plainly() -> None:
    spec = {"load": {"clients": 4, "shapes": {"x": [1, 3]}, "ranges": {}, "payload": "random"}, "slo": {}}
    assert list(display.settings(spec)) == [
        ("load.clients", "4"),
        ("load.shapes", "x [1, 3]"),
        ("load.payload", "random"),
    ]


def test_small_sizes_are_in_mib() -> None:
    assert list(display.environment({"size_bytes": 3 * 2**19}, "model ")) == [("model size", "1.5 MiB")]


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({}, "closed loop"),
        ({"arrivals": "poisson", "rate_rps": 200.0}, "open loop, poisson 200/s"),
        ({"arrivals": "steps", "steps": [[100.0, 5.0], [50.0, 5.0], [400.5, 5.0]]}, "open loop, steps 50 to 400.5/s"),
        ({"arrivals": "trace", "trace": "a.txt"}, "open loop, trace"),
    ],
)
def test_a_loop_says_how_requests_arrive(load: dict[str, Any], words: str) -> None:
    assert display.loop({"load": load}) == words


def test_a_trend_comes_with_its_bounds() -> None:
    assert (
        display.change(Trend(median=1.0, change=0.31, low=0.12, high=0.5, confidence=0.99))
        == "+31 % (99 % bounds +12 % to +50 %)"
    )
    assert display.change(None) == "too few blocks"


def test_money_and_energy_that_were_not_measured_are_told_as_such() -> None:
    nothing = dict.fromkeys(Energy.model_fields)
    energy = nothing | {"source": "rapl", "problem": "no RAPL counters"}
    assert display.worth(run_summary(energy=energy)) == "power not measured: no RAPL counters"
    stated = nothing | {"source": "constant", "watts": 250.0, "per_joule": 2.0}
    assert display.worth(run_summary(energy=stated)).startswith(
        "250 W (stated, not measured), 2.00 inferences/J, above idle not measured"
    )


def level(value: float, holds: bool, *doubts: str) -> dict[str, Any]:
    return {"value": value, "holds": holds, "why": "", "runs": [], "seconds": 10.0, "doubts": doubts}


def searched(**more: Any) -> SearchAnswer:
    levels = [level(100.0, True, "other_load"), level(110.0, False)]
    found: dict[str, Any] = {
        "key": "load.rate_rps",
        "limits": {"p95_ms": 50.0},
        "highest": 100.0,
        "fails_at": 110.0,
        "ended": True,
    }
    return SearchAnswer.model_validate({**found, "seconds": 20.0, "levels": levels, **more})


def test_a_search_says_where_it_may_not_have_been_the_server_that_failed() -> None:
    told = "The highest rate that keeps p95 within 50 ms is 100 requests/s; 110 does not"
    assert display.answer(searched()) == f"{told}. 2 levels, 20 s of load."
    doubted = searched(levels=[level(110.0, False, "late_sends", "other_load")])
    why = "but that may not be the server's doing (late_sends, other_load)"
    assert display.answer(doubted) == f"{told}, {why}. 1 levels, 20 s of load."
    none = searched(key="load.clients", highest=None, limits={"p99_9_ms": 5.0, "error_rate": 0.0}, ended=False)
    assert display.answer(none) == (
        "No number of clients keeps p99.9 within 5 ms and error_rate at most 0. 2 levels, 20 s of load. The search was "
        "not ended."
    )


def tuned(*finalists: tuple[str, int, float, float], **more: Any) -> str:
    keys = ("name", "runs", "low_ips", "high_ips")
    found = {"axes": {}, "runs": 14, "seconds": 70.0, "measured": 11, "combinations": 96, "untried": 0, "ended": True}
    named = [dict(zip(keys, one, strict=True)) for one in finalists]
    tune = TuneAnswer.model_validate({**found, "tolerance": 0.05, "finalists": named, **more})
    return display.tuning(tune)


def test_a_tuning_says_what_it_did_not_decide() -> None:
    cost = "11 of 96 combinations were measured (14 runs, 70 s of load)"
    best = ("streams=2, batch=8", 2, 950.0, 1000.0)
    spread = "950 to 1,000 inferences/s in 2 runs"
    assert tuned(best) == (
        f"{cost}; no step from there is better by over 5%. The best made {spread}; nothing else came within 5% of it."
    )
    assert tuned(best, ("streams=2, batch=4", 2, 940.0, 960.0), untried=3) == (
        f"{cost}; tune.runs_max ended it, with 3 steps from there untried. Not decided: the best made {spread}, and as "
        "good may be batch=4 (940 to 960 in 2)."
    )
    assert tuned(best, ("b", 2, 940.0, 945.0)).endswith(
        f"The best made {spread}, and stayed ahead of b (940 to 945 in 2)."
    )
    assert tuned(("a", 1, 950.0, 950.0)).endswith("The best was measured only once: it is not proved.")
    assert tuned(ended=False) == f"{cost}; it was not ended."
