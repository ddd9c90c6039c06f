"""Gates: how they are read, and when they are broken."""

from __future__ import annotations

import pytest

from loadproof.compare import gates
from loadproof.compare.comparison import METRICS, Change, Comparison, Pair
from loadproof.compare.gates import Gate
from loadproof.compare.intervals import Interval
from loadproof.compare.sides import Side
from loadproof.errors import UsageError


def made(metric: str, ratio: Interval | None, runs: int = 5) -> Comparison:
    changes = {name: Change(name, 1.0, 1.0, ratio if name == metric else None) for name in METRICS}
    pair = Pair("one", 5, runs, False, metric, changes)
    side = Side("a", ("", ""), [], {})
    return Comparison(side, side, 0.99, [pair], [], ([], []), [], [], [])


def test_a_gate_is_a_metric_and_how_much_worse_it_may_become() -> None:
    assert gates.read_gates(["p99_ms<=+5%", " throughput_rps >= -3.5 % ", "p50_ms<=-10%"]) == [
        Gate("p99_ms<=+5%", "p99_ms", 1.05),
        Gate("throughput_rps>=-3.5%", "throughput_rps", 0.965),
        Gate("p50_ms<=-10%", "p50_ms", 0.9),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99_ms", "allowed: METRIC<=+N% or METRIC>=-N%"),
        ("p99_ms<=5", "allowed: METRIC<=+N%"),
        ("p99_ms<5%", "allowed: METRIC<=+N%"),
        ("p99<=+5%", "did you mean p99_ms?"),
        ("speed<=+5%", "the metrics are throughput_rps, mean_ms"),
        ("throughput_rps<=+3%", "write throughput_rps>=+3%"),
        ("p99_ms>=-3%", "more p99_ms is worse: write p99_ms<=-3%"),
        ("throughput_rps>=-100%", "give more than -100 %"),
        ("error_rate<=+1%", "set slo.error_rate in the plan"),
    ],
)
def test_a_bad_gate_is_named_with_its_cure(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        gates.read_gates(["p50_ms<=+5%", text])
    assert f'--gate "{text}": ' in str(caught.value) and said in str(caught.value)


def test_all_bad_gates_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        gates.read_gates(["p99<=+5%", "nonsense"])
    assert '--gate "p99<=+5%"' in str(caught.value) and '--gate "nonsense"' in caught.value.detail


@pytest.mark.parametrize(
    ("text", "low", "high", "state", "code"),
    [
        ("p99_ms<=+5%", 1.06, 1.20, "broken", 3),
        ("p99_ms<=+5%", 1.04, 1.20, "no evidence", 0),
        ("p99_ms<=+5%", 1.01, 1.04, "kept", 0),  # worse, and within the gate
        ("p99_ms<=-5%", 0.96, 0.99, "broken", 3),  # a gate may ask for progress
        ("throughput_rps>=-3%", 0.90, 0.96, "broken", 3),
        ("throughput_rps>=-3%", 0.90, 0.98, "no evidence", 0),
        ("throughput_rps>=-3%", 0.98, 1.10, "kept", 0),
    ],
)
def test_a_gate_is_broken_where_the_whole_interval_lies_beyond_it(
    text: str, low: float, high: float, state: str, code: int
) -> None:
    (gate,) = gates.read_gates([text])
    found = [made(gate.metric, Interval((low * high) ** 0.5, low, high))]
    judged = gates.judge(found, [gate])
    assert [one.state for one in judged] == [state]
    assert gates.exit_code(found, judged) == code


def test_too_little_to_judge_breaks_no_gate() -> None:
    found = [made("p99_ms", None)]
    judged = gates.judge(found, gates.read_gates(["p99_ms<=+5%"]))
    assert [one.state for one in judged] == ["no evidence"] and gates.exit_code(found, judged) == 0


def test_a_side_without_a_valid_run_never_passes() -> None:
    assert gates.exit_code([made("p99_ms", None, runs=0)], []) == 4
