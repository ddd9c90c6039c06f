"""The highest load that keeps the limits: what each level showed, and which level to measure next; pure functions.

Doubling until a level fails, then bisection; Wald's idea ("Sequential Tests of Statistical Hypotheses", 1945) in the
plainest form: a level is measured again until a bound decides, or its tries are used up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from loadproof.analyse import checks
from loadproof.analyse.schema import Level, Limit, RunSummary, SearchAnswer
from loadproof.analyse.statistics import CONFIDENCE, PERCENTILES, independent

HALVINGS_MAX: Final = 10  # below the first level
# Where one of these was there, it may not have been the server that a level was too much for.
DISTURBANCES: Final = checks.disturbances("generator", "machine", "others")
NEVER_NS: Final = np.iinfo(np.int64).max  # the latency of what was not answered right


def levels(search: Mapping[str, Any], runs: Sequence[RunSummary]) -> list[Level]:
    """Each value that was measured, in the order of its first run; `runs` are those of the summary."""
    section, _, key = search["key"].partition(".")
    groups: dict[float, list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(float(run.spec[section][key]), []).append(run)
    found = []
    for value, group in groups.items():
        holds, why = judge([run.slo for run in group], last=len(group) >= search["tries"])
        codes = dict.fromkeys(reason.code for run in group for reason in run.reasons)
        found.append(
            Level(
                value=value,
                holds=holds,
                why=why,
                runs=[run.name for run in group],
                seconds=sum((run.window.warmup_s or 0) + (run.window.duration_s or 0) for run in group),
                doubts=[code for code in codes if code in DISTURBANCES],
            )
        )
    return found


def judge(limits: Sequence[Sequence[Limit]], *, last: bool) -> tuple[bool | None, str]:
    """Whether the runs of a level keep every limit, and why; `limits` are each run's `slo` rows.

    Of a percentile's limit, the requests over it are pooled: the 99 % bounds of their share decide, and after the last
    try the share itself does. Other limits are kept where most runs keep them.
    """
    verdicts: list[tuple[bool | None, str]] = []
    for rows in zip(*limits, strict=True):
        metric, limit = rows[0].metric, rows[0].limit
        share = PERCENTILES.get(metric.removesuffix("_ms"))
        if share is None:
            kept = sum(row.ok for row in rows)
            verdicts.append((2 * kept > len(rows), f"{metric} {_shown(rows[-1].value)} against {limit:g}"))
            continue
        over, of = sum(row.over or 0 for row in rows), sum(row.of or 0 for row in rows)
        worth = sum(row.worth or 0 for row in rows)
        sure = share_holds(over, of, worth, 1 - share, last=False)
        shares = f"{_percent(over / max(1, of))} where {_percent(1 - share)} may be"
        why = f"{over:,} of {of:,} requests over {limit:g} ms: {shares}"
        if sure is None:
            why += f"; too {'near' if over else 'few'} to be sure" if last else "; not decided"
        verdicts.append((share_holds(over, of, worth, 1 - share, last), why))
    reasons = "; ".join(why for _, why in verdicts)
    if any(holds is False for holds, _ in verdicts):
        return False, reasons
    return (None if any(holds is None for holds, _ in verdicts) else True), reasons


def over(latency_ns: NDArray[np.int64], at_ns: NDArray[np.int64], limit_ms: float, p: float) -> dict[str, float]:
    """Of the requests due at `at_ns`: how many were `over` the limit of their p-quantile, `of` how many, and `worth`.

    `worth` is how many independent ones they are.
    """
    slow = int((latency_ns > limit_ms * 1e6).sum())
    return {"over": slow, "of": len(latency_ns), "worth": independent(latency_ns, at_ns, p)}


def share_holds(over: float, of: float, worth: float, allowed: float, last: bool) -> bool | None:
    """Whether at most the `allowed` share is over a limit, where `over` of `of` requests were; None: not decided.

    By Clopper and Pearson's bounds ("The Use of Confidence or Fiducial Limits", 1934) of as many requests as these are
    `worth` (analyse.statistics.independent).
    """
    if of == 0:
        return False
    tail, slow = (1 - CONFIDENCE) / 2, worth * over / of
    if slow and beta.ppf(tail, slow, worth - slow + 1) > allowed:
        return False
    if over < of and beta.ppf(1 - tail, slow + 1, worth - slow) <= allowed:
        return True
    return over <= allowed * of if last else None


def bracket(found: Sequence[Level]) -> tuple[float | None, float | None]:
    """(the highest value that holds, the lowest one above it that does not); None where there is none."""
    good = max((level.value for level in found if level.holds), default=None)
    bad = min((one.value for one in found if one.holds is False and (good is None or one.value > good)), default=None)
    return good, bad


def next_value(search: Mapping[str, Any], found: Sequence[Level]) -> float | None:
    """The value to measure next, or None once the bracket is as narrow as `search.tolerance`, or there is none."""
    if undecided := [level.value for level in found if level.holds is None]:
        return undecided[0]
    whole, high = search["key"] == "load.clients", search.get("high") or math.inf
    good, bad = bracket(found)
    if good is None and bad is None:
        return float(search["low"])
    if good is None:
        assert bad is not None
        lower = math.floor(bad / 2) if whole else _rounded(bad / 2)
        return lower if lower >= max(search["low"] / 2**HALVINGS_MAX, 1 if whole else 0) else None
    if bad is None:
        return min(2 * good, high) if good < high else None
    if bad / good <= 1 + search["tolerance"] or (whole and bad - good <= 1):
        return None
    return math.floor((good + bad) / 2) if whole else _rounded(math.sqrt(good * bad))


def next_settings(plan: Mapping[str, Any], runs: Sequence[RunSummary]) -> dict[str, float] | None:
    """`next_value` as settings, from the plan and the summary's runs."""
    value = next_value(plan["search"], levels(plan["search"], runs))
    return None if value is None else {plan["search"]["key"]: value}


def answer(search: Mapping[str, Any], runs: Sequence[RunSummary]) -> SearchAnswer:
    """`search` of summary.json: the highest value that holds and its run, the bracket, the levels, seconds of load."""
    found = levels(search, runs)
    good, bad = bracket(found)
    return SearchAnswer(
        key=search["key"],
        limits={row.metric: row.limit for run in runs[:1] for row in run.slo},
        highest=good,
        fails_at=bad,
        ended=next_value(search, found) is None,
        seconds=sum(level.seconds for level in found),
        levels=found,
    )


def _rounded(value: float) -> float:
    """To four digits: as fine as the search can decide, and readable."""
    return float(f"{value:.4g}")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:g}"
