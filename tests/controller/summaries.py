"""Makes parts of summary.json from what a test is about; all else is as of a valid run that left nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadproof import analyse, rundir
from loadproof.analyse import RunSummary, Summary

BLANK = analyse.run(Path("nowhere"), {}).model_dump() | {"verdict": "VALID", "reasons": [], "notes": []}
REPLACED = {"spec", "over", "errors"}  # tables whose keys are the plan's or a status
HEAD = {
    "name": "quick",
    "created": "2026-09-21T13:46:40+00:00",
    "loadproof": "0.2.0",
    "plan_sha256": "5f" * 32,
    "interrupted": False,
    "runs_planned": 1,
    "runs_missing": 0,
}


def run_summary(**facts: Any) -> RunSummary:
    """A RUN with these facts; of a part, what is not given stays as it is."""
    return RunSummary.model_validate(_merged(BLANK, facts))


def reason(code: str) -> dict[str, str]:
    return {"code": code, "severity": "FLAGGED", "message": f"{code}.", "remedy": "None."}


def summary(*runs: RunSummary) -> Summary:
    return Summary.model_validate({"schema": rundir.SCHEMA, "campaign": HEAD, "runs": runs})


def _merged(base: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    return base | {
        key: _merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict) and key not in REPLACED
        else value
        for key, value in facts.items()
    }
