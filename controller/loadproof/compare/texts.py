"""The sentences about a comparison, shared by the terminal, the markdown and the JUnit file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from loadproof.compare.comparison import REPEATS_MIN, Change, Comparison, Pair
from loadproof.compare.gates import Judged
from loadproof.compare.intervals import Interval
from loadproof.compare.sides import Side
from loadproof.report import display

LIMITS_OF_WITHIN: Final = (
    "Within-run evidence tells whether these very runs differ, second by second. Runs of one and the same server differ"
    f" by more: for an answer that holds, give {REPEATS_MIN} repeats a side, best of all interleaved."
)


def percent(ratio: float) -> str:
    """A ratio as a change: -9.4 %, +0.35 %, +120 %."""
    change = (ratio - 1) * 100
    digits = 0 if abs(change) >= 99.5 else 1 if abs(change) >= 0.995 else 2
    return f"{change:+.{digits}f} %"


def change(row: Change) -> str:
    return display.ABSENT if row.before is None or row.after is None else percent(row.after / row.before)


def bounds(interval: Interval | None) -> str:
    """`-12.1 to -6.6 %`; an open side says so."""
    if interval is None or (interval.low == 0 and math.isinf(interval.high)):
        return display.ABSENT
    low = "any" if interval.low == 0 else percent(interval.low).removesuffix(" %")
    return f"{low} to any" if math.isinf(interval.high) else f"{low} to {percent(interval.high)}"


def verdict(pair: Pair) -> str:
    """`worse`, `better within these runs`, `no evidence`, `not compared`."""
    if not pair.is_sound:
        return "not compared"
    return f"{pair.verdict} within these runs" if pair.within and pair.verdict != "no evidence" else pair.verdict


def why(pair: Pair) -> str:
    """The primary metric's change, its bounds and what they were taken over."""
    if not pair.is_sound:
        return f"{pair.before} and {pair.after} runs whose figures can be trusted; a run is needed on both sides"
    row = pair.changes[pair.primary]
    if row.ratio is None:
        least = f"{REPEATS_MIN} repeats a side, or windows of ten seconds with requests enough for it, would tell"
        return f"{pair.primary} {change(row)}, too little was measured for bounds: {least}"
    return f"{pair.primary} {percent(row.ratio.estimate)} ({bounds(row.ratio)})"


def units(pair: Pair) -> str:
    """`5 repeats a side`, or `within-run: seconds of 1 and 2 runs`."""
    if pair.within:
        return f"within-run: seconds of {pair.before} and {pair.after} runs"
    return f"{pair.before} repeats a side" if pair.before == pair.after else f"{pair.before} and {pair.after} repeats"


def confidence(comparison: Comparison) -> str:
    """`99 %`, or more where several pairs are to hold together: `99.9 %`."""
    return f"{comparison.confidence:.5%}".rstrip("%").rstrip("0").rstrip(".") + " %"


def side(one: Side) -> str:
    first, last = (moment.replace("T", " ")[:16] for moment in one.created)
    runs = f"{len(one.runs)} run{'s' * (len(one.runs) != 1)}"
    return f"{runs}, {first}" + (f" to {last}" if last != first else "")


def gate(judged: Judged) -> str:
    """What the evidence says of one gate on one pair."""
    row = judged.pair.changes[judged.gate.metric]
    if row.ratio is None:
        return "too little was measured"
    return f"{percent(row.ratio.estimate)} ({bounds(row.ratio)})"


def warnings(comparison: Comparison, judged: Sequence[Judged]) -> Iterator[str]:
    """What a reader has to know before the figures are believed."""
    if comparison.left_out:
        yield f"INVALID runs are left out: {', '.join(comparison.left_out)}"
    if comparison.disturbed:
        yield f"runs that something else disturbed are left out: {', '.join(comparison.disturbed)}"
    if comparison.flagged:
        yield f"FLAGGED runs are used, see their reports: {', '.join(comparison.flagged)}"
    for given, names in zip((comparison.before, comparison.after), comparison.unmatched, strict=True):
        if names:
            yield f"only in {given.name}: {', '.join(names)}"
    open_gates = [one.gate.text for one in judged if one.comparison is comparison and one.state == "no evidence"]
    if open_gates:
        gates = ", ".join(dict.fromkeys(open_gates))
        yield f"no evidence that these gates are kept or broken: {gates}; more or longer repeats would tell"
    if any(pair.within for pair in comparison.pairs):
        yield LIMITS_OF_WITHIN
