"""Did every request get its own right answer, and do all witnesses say so?"""

from __future__ import annotations

from typing import Final

from loadproof.analyse.checks.events import Fields, event
from loadproof.analyse.formats import percent
from loadproof.analyse.schema import RunSummary

# MLPerf's TEST04. All of the 99 % interval must be below: with 1 as its bound, 88 % (82 to 96) was measured of a server
# without a cache, on a machine that others slowed down meanwhile.
CACHED_RATIO: Final = 0.9


def no_requests(run: RunSummary) -> Fields | None:
    # What kept the load from starting has a reason of its own.
    return {} if run.complete and not run.events and run.requests.sent == 0 else None


def disagree(run: RunSummary) -> Fields | None:
    # A run without any record has one reason, not three.
    differences = run.reconcile.differences if run.complete else []
    return {"differences": "; ".join(differences)} if differences else None


def log_dropped(run: RunSummary) -> Fields | None:
    dropped, lines = (run.log.dropped, run.log.lines) if run.log else (0, 0)
    missing = run.reconcile.lines_missing or 0
    if dropped or missing:
        own_count = f", {dropped:,} by its own count" if dropped else ""
        lost = max(missing, dropped)
        return {"message": f"{lost:,} lines of the balancer's log were lost{own_count}; {lines:,} came"}
    return event("log_lines_dropped")(run)


def failed(run: RunSummary) -> Fields | None:
    if not run.requests.failed:
        return None
    errors = ", ".join(f"{name} {count:,}" for name, count in sorted(run.errors.items(), key=lambda item: -item[1]))
    return {"failed": run.requests.failed, "sent": run.requests.sent, "errors": errors}


def wrong(run: RunSummary) -> Fields | None:
    return dict(run.requests) if run.requests.wrong else None


def unaccounted(run: RunSummary) -> Fields | None:
    return dict(run.requests) if run.requests.unaccounted else None


def cached(run: RunSummary) -> Fields | None:
    found = run.audit
    if found is None or found.ratio is None or found.low is None or found.high is None or found.high >= CACHED_RATIO:
        return None
    return {"ratio": percent(found.ratio), "low": percent(found.low), "high": percent(found.high)}


def interfered(run: RunSummary) -> Fields | None:
    """The balancer did more than pass requests on; one whose server died has to answer itself."""
    counts = run.interference.model_dump(exclude={"full"}) if run.interference else {}
    found = {name: count for name, count in counts.items() if count}
    if not found or run.has_event("server_died", "balancer_died"):
        return None
    return {"interference": ", ".join(f"{name} {count:,}" for name, count in found.items())}
