"""Figures and facts in words."""

from __future__ import annotations

from typing import Any

import pytest

from controller.report import display


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
    latency = {"low": {"p50": 1.0, "p99": 2.0, "p99_9": None}, "high": {"p50": 1.5, "p99": None, "p99_9": None}}
    assert [display.bounds(latency, name) for name in latency["low"]] == ["1.00 to 1.50", "2.00 or more", "—"]


def test_a_witness_is_exact_or_a_bucket() -> None:
    assert [display.of_witness(value) for value in (8.5, [6.4, 11.6], [90.0, None], None)] == [
        "8.50",
        "6.40 to 11.6",
        "over 90.0",
        "—",
    ]


def run(
    client: int, balancer: int | None, rows: int | None, server: int | None, differences: list[str]
) -> dict[str, Any]:
    counts = {"client": client, "balancer": balancer, "server": server}
    return {
        "witnesses": {name: None if count is None else {"requests": count} for name, count in counts.items()},
        "reconcile": {"differences": differences, **({} if rows is None else {"balancer_rows": rows})},
    }


def test_agreement_has_an_equals_sign_only_between_equal_counts() -> None:
    assert display.agreement(run(5, 5, 5, 5, [])) == "client 5 = balancer 5 = server 5"
    assert display.agreement(run(5, None, None, 5, [])) == "client 5 = server 5"
    assert display.agreement(run(6, 5, 5, 5, [])) == "client 6, balancer 5 = server 5"
    assert display.agreement(run(5, 5, 5, 8, ["x"])) == "client 5 = balancer 5 ≠ server 8"
    assert display.agreement(run(5, 5, 4, 5, ["x"])).endswith(" ≠ balancer's log 4")


def test_a_campaign_is_as_good_as_its_worst_run() -> None:
    assert display.verdict([{"verdict": "VALID"}, {"verdict": "INVALID"}, {"verdict": "FLAGGED"}]) == "INVALID"
    assert display.verdict([{"verdict": "VALID"}, {"verdict": "FLAGGED"}]) == "FLAGGED"
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
    assert display.load(spec) == "1 client in 1 process, closed loop, REST, direct, batch 4"


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
    assert display.change({"change": 0.31, "low": 0.12, "high": 0.5}) == "+31% (99 % bounds +12% to +50%)"
    assert display.change(None) == "too few blocks"
