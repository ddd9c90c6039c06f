"""From a campaign's directory to summary.json, and what follows from it: the exit code, what to measure next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from loadproof import rundir
from loadproof.analyse import run_summary, search, sweet_spot, tune
from loadproof.analyse.run_summary import metrics
from loadproof.analyse.schema import Calibration, Campaign, Repeats, RunSummary, Summary
from loadproof.errors import Exit

NOT_COPIED: Final = ("schema", "runs", "plan")  # of campaign.json: summary.json has its own, and the runs their spec


def campaign(directory: Path, known: Summary | None = None) -> Summary:
    """The summary of every run that was begun; also writes it as summary.json and summary.csv.

    `known` is an earlier summary of this campaign: the runs that it has are taken from it, not analysed again.
    Raises RunDirectoryError where the directory is no campaign's or a file in it is broken.
    """
    facts = rundir.read_campaign(directory)
    with rundir.blamed(directory / "campaign.json"):
        summary = _summary(directory, facts, known)
    rundir.write_summary(directory, summary.model_dump(mode="json"), [run_summary.row(one) for one in summary.runs])
    return summary


def _summary(directory: Path, facts: Mapping[str, Any], known: Summary | None) -> Summary:
    # in the plan's order: in which they ran is in the directories' numbers
    planned = sorted(facts.get("runs", []), key=lambda one: (one.get("point", 1), one.get("repeat", 1)))
    begun = [one for one in planned if (directory / one["directory"]).is_dir()]
    counts = {"runs_planned": len(planned), "runs_missing": len(planned) - len(begun)}
    head = Campaign.model_validate({key: value for key, value in facts.items() if key not in NOT_COPIED} | counts)
    done = {one.directory: one for one in known.runs} if known else {}
    plan = facts.get("plan", {})
    runs = [done.get(one["directory"]) or _run(directory, one, head.calibration, plan.get("cost")) for one in begun]
    return Summary(
        format=rundir.SCHEMA,
        campaign=head,
        runs=runs,
        repeats=repeats(runs),
        search=search.answer(wanted, runs) if (wanted := plan.get("search")) else None,
        tune=tune.answer(plan, runs) if plan.get("tune") else None,
        sweet_spot=sweet_spot.answer(plan, runs),
    )


def read(directory: Path) -> Summary | None:
    """The campaign's summary.json, of this version or an earlier one; None where there is none.

    Raises RunDirectoryError where it is broken.
    """
    facts = rundir.read_summary(directory)
    if facts is None:
        return None
    try:
        return Summary.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise rundir.RunDirectoryError(f"{directory}: summary.json cannot be read: {place}: {first['msg']}") from error


def _run(directory: Path, one: Mapping[str, Any], calibration: Calibration | None, cost: Any) -> RunSummary:
    place = str(one["directory"])
    with rundir.blamed(directory / place / "run.json"):
        return run_summary.run(directory / place, one.get("spec", {}), calibration, one["name"], place, cost)


def repeats(runs: Sequence[RunSummary]) -> list[Repeats]:
    """For each spec that ran more than once: its runs, and [min, median, max] of each metric that all of them have."""
    return [
        Repeats(runs=[one.name for one in group], metrics=_spread([metrics(one) for one in group]))
        for group in sweet_spot.by_spec(runs)
        if len(group) > 1
    ]


def exit_code(summary: Summary) -> Exit:
    """INVALID comes before a broken SLO: a figure that can't be trusted neither keeps nor breaks a limit.

    Of a search or tuning only the runs of its answer count; without an answer nothing kept the SLO.
    """
    chosen = summary.search or summary.tune
    if chosen is not None and _best_runs(summary) is None and summary.runs:
        return Exit.GATE
    runs = answering(summary)
    if not runs or any(one.verdict == "INVALID" for one in runs):
        return Exit.INVALID
    if chosen is not None:
        return Exit.GOOD
    return Exit.GATE if any(not limit.ok for one in runs for limit in one.slo) else Exit.GOOD


def answering(summary: Summary) -> list[RunSummary]:
    """The runs that a campaign's verdict is of: all; or those of a search's or tuning's answer: others have to fail."""
    names = _best_runs(summary)
    return [run for run in summary.runs if names is None or run.name in names]


def next_settings(plan: Mapping[str, Any], runs: Sequence[RunSummary]) -> dict[str, Any] | None:
    """What a search or tuning measures next, `section.key` and value, after the summary's runs; None: nothing."""
    if plan.get("search"):
        return search.next_settings(plan, runs)
    return tune.next_settings(plan, runs) if plan.get("tune") else None


def _best_runs(summary: Summary) -> list[str] | None:
    """The names of the runs of a search's or tuning's answer; None where there is none."""
    if found := summary.search:
        return next((level.runs for level in found.levels if level.value == found.highest), None)
    if not (summary.tune and summary.sweet_spot):
        return None
    spot = summary.sweet_spot
    return next((one.runs for one in spot.configurations if one.name == spot.best), None)


def _spread(rows: Sequence[Mapping[str, float | None]]) -> dict[str, tuple[float, float, float]]:
    columns = {name: [value for one in rows if (value := one[name]) is not None] for name in rows[0]}
    return {
        name: (min(values), float(np.median(values)), max(values))
        for name, values in columns.items()
        if len(values) == len(rows)
    }
