"""What the controller saw happen to the run and its parties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Facts = Mapping[str, Any]


def event(code: str) -> Callable[[Facts], Facts | None]:
    """Holds where the controller saw `code` happen."""

    def fields(run: Facts) -> Facts | None:
        seen = [event for event in run["events"] if event["code"] == code]
        return {"message": "; ".join(_told(event) for event in seen)} if seen else None

    return fields


def _told(event: Facts) -> str:
    at = event.get("time_s")
    return str(event["message"]) if at is None else f"{event['message']} (at {at:.1f} s)"


def interrupted(run: Facts) -> Facts | None:
    if not run["complete"]:
        return {"message": "The run ended before its records were written"}
    return event("interrupted")(run)


def restarted(run: Facts) -> Facts | None:
    sources = run["reconcile"]["restarted"]
    return {"who": " and ".join(f"the {source}" for source in sources)} if sources else None


def model_changed(run: Facts) -> Facts | None:
    # What died or began again tells of itself otherwise, and that is told already.
    ended = restarted(run) or any(event["code"] == "server_died" for event in run["events"])
    return {"changes": "; ".join(run["model_changes"])} if run["model_changes"] and not ended else None
