"""Did every request get its own right answer, and do all witnesses say so?"""

from __future__ import annotations

from typing import Final

from loadproof.analyse.checks.events import Facts, event
from loadproof.analyse.words import percent

# MLPerf's TEST04. All of the 99 % interval must be below: with 1 as its bound, 88 % (82 to 96) was told of a server
# without a cache, on a machine that others slowed down meanwhile.
CACHED_RATIO: Final = 0.9


def no_requests(run: Facts) -> Facts | None:
    # What kept the load from starting is told already.
    return {} if run["complete"] and not run["events"] and run["requests"]["sent"] == 0 else None


def disagree(run: Facts) -> Facts | None:
    # A run without any record has one reason, not three.
    differences = run["reconcile"]["differences"] if run["complete"] else []
    return {"differences": "; ".join(differences)} if differences else None


def log_dropped(run: Facts) -> Facts | None:
    log, missing = run["log"] or {}, run["reconcile"].get("lines_missing", 0)
    if log.get("dropped") or missing:
        told = f", {log['dropped']:,} by its own count" if log.get("dropped") else ""
        lost = max(missing, log.get("dropped") or 0)
        return {"message": f"{lost:,} lines of the balancer's log were lost{told}; {log.get('lines', 0):,} came"}
    return event("log_lines_dropped")(run)


def failed(run: Facts) -> Facts | None:
    counts = run["requests"]
    if not counts["failed"]:
        return None
    errors = ", ".join(f"{name} {count:,}" for name, count in sorted(run["errors"].items(), key=lambda item: -item[1]))
    return {"failed": counts["failed"], "sent": counts["sent"], "errors": errors}


def wrong(run: Facts) -> Facts | None:
    return run["requests"] if run["requests"]["wrong"] else None


def unaccounted(run: Facts) -> Facts | None:
    return run["requests"] if run["requests"]["unaccounted"] else None


def cached(run: Facts) -> Facts | None:
    found = run["audit"]
    if found is None or found["ratio"] is None or found["high"] >= CACHED_RATIO:
        return None
    return {name: percent(found[name]) for name in ("ratio", "low", "high")}


def interfered(run: Facts) -> Facts | None:
    """The balancer did more than pass requests on; one whose server died can't but answer itself, and that is told."""
    found = {name: count for name, count in (run["interference"] or {}).items() if count and name != "full"}
    if not found or any(event["code"] in ("server_died", "balancer_died") for event in run["events"]):
        return None
    return {"deeds": ", ".join(f"{name} {count:,}" for name, count in found.items())}
