"""What the controller saw happen to the run and its parties."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loadproof.analyse.schema import Event, RunSummary

Fields = Mapping[str, object]  # what a reason's message needs


def event(code: str) -> Callable[[RunSummary], Fields | None]:
    """Holds where the controller saw `code` happen."""

    def fields(run: RunSummary) -> Fields | None:
        seen = [event for event in run.events if event.code == code]
        return {"message": "; ".join(_with_time(event) for event in seen)} if seen else None

    return fields


def _with_time(event: Event) -> str:
    return event.message if event.time_s is None else f"{event.message} (at {event.time_s:.1f} s)"


def interrupted(run: RunSummary) -> Fields | None:
    if not run.complete:
        return {"message": "The run ended before its records were written"}
    return event("interrupted")(run)


def restarted(run: RunSummary) -> Fields | None:
    sources = run.reconcile.restarted
    return {"who": " and ".join(f"the {source}" for source in sources)} if sources else None


def model_changed(run: RunSummary) -> Fields | None:
    # A server that died or began again has a reason of its own.
    ended = restarted(run) or run.has_event("server_died")
    return {"changes": "; ".join(run.model_changes)} if run.model_changes and not ended else None
