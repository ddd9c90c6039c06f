"""Gates: how much worse a metric may become, and what the evidence says of it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from loadproof.compare.comparison import METRICS, Comparison, Pair
from loadproof.errors import Exit, UsageError

State = Literal["kept", "broken", "no evidence"]

_GATE: Final = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([+-]?\d+(?:\.\d+)?)\s*%\s*")
_FORM: Final = 'allowed: METRIC<=+N% or METRIC>=-N%, as in "p99_ms<=+5%" or "throughput_rps>=-3%"'


class Gate(NamedTuple):
    """`metric` may become at most (at least, where more is better) `limit` times what it was."""

    text: str
    metric: str
    limit: float


class Judged(NamedTuple):
    """A gate on one pair of a comparison."""

    gate: Gate
    comparison: Comparison
    pair: Pair
    state: State


def read_gates(texts: Sequence[str]) -> list[Gate]:
    """The gates that the texts mean; UsageError names all mistakes at once, each with its cure."""
    gates, mistakes = [], []
    for text in texts:
        found = _GATE.fullmatch(text)
        mistake = _mistake(*found.groups()) if found else _FORM
        if mistake:
            mistakes.append(f'--gate "{text}": {mistake}')
        elif found:
            gates.append(Gate(re.sub(r"\s+", "", text), found[1], 1 + float(found[3]) / 100))
    if mistakes:
        raise UsageError(mistakes[0], "\n".join(mistakes[1:]))
    return gates


def _mistake(metric: str, sign: str, percent: str) -> str | None:
    if metric == "error_rate":
        return "a rate that should be 0 has no ratio; set slo.error_rate in the plan"
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1)
        return f"{f'did you mean {near[0]}? ' if near else ''}the metrics are {', '.join(METRICS)}"
    wanted = ">=" if METRICS[metric] > 0 else "<="
    if sign != wanted:
        direction = "less" if METRICS[metric] > 0 else "more"
        return f"{direction} {metric} is worse: write {metric}{wanted}{percent}%"
    if float(percent) <= -100:
        return f"{metric} cannot fall to nothing: give more than -100 %"
    return None


def judge(comparisons: Sequence[Comparison], gates: Sequence[Gate]) -> list[Judged]:
    """Every gate on every pair."""
    return [
        Judged(gate, comparison, pair, _state(gate, pair))
        for comparison in comparisons
        for gate in gates
        for pair in comparison.pairs
    ]


def _state(gate: Gate, pair: Pair) -> State:
    """Broken where the whole interval lies beyond the limit, kept where the whole of it lies within."""
    interval = pair.changes[gate.metric].ratio
    if interval is None:
        return "no evidence"
    if METRICS[gate.metric] > 0:
        return "broken" if interval.high < gate.limit else "kept" if interval.low >= gate.limit else "no evidence"
    return "broken" if interval.low > gate.limit else "kept" if interval.high <= gate.limit else "no evidence"


def exit_code(comparisons: Sequence[Comparison], judged: Sequence[Judged]) -> Exit:
    """GATE where one is broken; INVALID where a pair has no run to be trusted on a side: it proves nothing."""
    if any(one.state == "broken" for one in judged):
        return Exit.GATE
    if not all(pair.is_sound for comparison in comparisons for pair in comparison.pairs):
        return Exit.INVALID
    return Exit.GOOD
