"""The verdict: a closed table of reasons, each with what makes it fire, what it says and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Severity = Literal["INVALID", "FLAGGED"]
Verdict = Literal["VALID", "FLAGGED", "INVALID"]
Facts = Mapping[str, Any]

SATURATED_CPU_PERCENT: Final = 90  # of one core: a worker is one thread
# Sizes of an effect, as a share; where there is a bound at 99 % confidence, it must exclude the smaller one.
LATENCY_CHANGE: Final = 0.25
LATENCY_CHANGE_BOUND: Final = 0.10
BACKLOG_CHANGE: Final = 0.5  # of what is in flight in the middle of the window
BACKLOG_BOUND: Final = 0.01  # of the requests that were due
KEPT_UP: Final = 0.95
LITTLE: Final = 0.5  # a burst at the window's edge makes it a third; records alone can't break the law otherwise


@dataclass(frozen=True)
class Reason:
    """A row of the table: `fields` gives what the message needs where the reason holds for a RUN's facts, else None."""

    code: str
    severity: Severity
    message: str
    remedy: str
    fields: Callable[[Facts], Facts | None]


def judge(run: Facts) -> tuple[Verdict, list[dict[str, str]]]:
    """The verdict on a RUN of summary.json (its figures, `reconcile`, `events`, `log`) and its reasons, worst first."""
    found = [(reason, fields) for reason in REASONS if (fields := reason.fields(run)) is not None]
    reasons = [
        {
            "code": reason.code,
            "severity": reason.severity,
            "message": reason.message.format(**fields),
            "remedy": reason.remedy,
        }
        for reason, fields in found
    ]
    return (found[0][0].severity if found else "VALID"), reasons


def _event(code: str) -> Callable[[Facts], Facts | None]:
    """Holds where the controller saw `code` happen."""

    def fields(run: Facts) -> Facts | None:
        seen = [event for event in run["events"] if event["code"] == code]
        return {"message": "; ".join(_told(event) for event in seen)} if seen else None

    return fields


def _told(event: Facts) -> str:
    at = event.get("time_s")
    return str(event["message"]) if at is None else f"{event['message']} (at {at:.1f} s)"


def _interrupted(run: Facts) -> Facts | None:
    if not run["complete"]:
        return {"message": "The run ended before its records were written"}
    return _event("interrupted")(run)


def _no_requests(run: Facts) -> Facts | None:
    # What kept the load from starting is told already.
    return {} if run["complete"] and not run["events"] and run["requests"]["sent"] == 0 else None


def _disagree(run: Facts) -> Facts | None:
    # A run without any record has one reason, not three.
    differences = run["reconcile"]["differences"] if run["complete"] else []
    return {"differences": "; ".join(differences)} if differences else None


def _log_dropped(run: Facts) -> Facts | None:
    log, missing = run["log"] or {}, run["reconcile"].get("lines_missing", 0)
    if log.get("dropped") or missing:
        told = f", {log['dropped']:,} by its own count" if log.get("dropped") else ""
        lost = max(missing, log.get("dropped") or 0)
        return {"message": f"{lost:,} lines of the balancer's log were lost{told}; {log.get('lines', 0):,} came"}
    return _event("log_lines_dropped")(run)


def _failed(run: Facts) -> Facts | None:
    counts = run["requests"]
    if not counts["failed"]:
        return None
    errors = ", ".join(f"{name} {count:,}" for name, count in sorted(run["errors"].items(), key=lambda item: -item[1]))
    return {"failed": counts["failed"], "sent": counts["sent"], "errors": errors}


def _wrong(run: Facts) -> Facts | None:
    return run["requests"] if run["requests"]["wrong"] else None


def _unaccounted(run: Facts) -> Facts | None:
    return run["requests"] if run["requests"]["unaccounted"] else None


def _restarted(run: Facts) -> Facts | None:
    sources = run["reconcile"]["restarted"]
    return {"who": " and ".join(f"the {source}" for source in sources)} if sources else None


def _in_flight_limit(run: Facts) -> Facts | None:
    unsent = run["generator"]["unsent"]
    return {"unsent": unsent, "limit": run["spec"]["load"].get("max_in_flight", 10_000)} if unsent else None


def _queue_growing(run: Facts) -> Facts | None:
    """The backlog grew by a real share of what was offered; a rate that changes has ups and downs of its own."""
    trend, offered, seconds = run["steady"]["in_flight"], run["offered_rps"], run["window"]["duration_s"]
    if trend is None or not offered:
        return None
    grown, surely = trend["change"] * trend["median"], trend["low"] * trend["median"]
    if trend["change"] < BACKLOG_CHANGE or surely < BACKLOG_BOUND * offered * seconds:
        return None
    share = run["throughput_rps"] / offered
    if _rate_changes(run) and share >= KEPT_UP:
        return None
    told = f", and only {share:.0%} of the offered {offered:,.4g} /s were answered in time" if share < KEPT_UP else ""
    return {"grown": grown, "told": told}


def _not_steady(run: Facts) -> Facts | None:
    trend = run["steady"]["latency"]
    if trend is None or _rate_changes(run) or _queue_growing(run):
        return None
    change = trend["change"]
    surely = trend["low"] if change > 0 else -trend["high"]
    if abs(change) <= LATENCY_CHANGE or surely <= LATENCY_CHANGE_BOUND:
        return None
    return {"change": change, "low": trend["low"], "high": trend["high"]}


def _littles_law(run: Facts) -> Facts | None:
    law = run["littles_law"]
    # A queue that grows reaches over the window's end, and is told already.
    if law is None or abs(law["ratio"] - 1) <= LITTLE or _queue_growing(run):
        return None
    return {**law, "product": law["rate_rps"] * law["latency_ms"] / 1000}


def _rate_changes(run: Facts) -> bool:
    return run["spec"].get("load", {}).get("arrivals") in ("steps", "trace")


def _saturated(run: Facts) -> Facts | None:
    # The median over the window: one busy second is not saturation.
    cpu = run["generator"]["cpu_percent_median"]
    return {"cpu": cpu} if cpu is not None and cpu > SATURATED_CPU_PERCENT else None


# Worst first: the order in which they are told, and the first one's severity is the verdict.
REASONS: Final = (
    Reason(
        "interrupted",
        "INVALID",
        "{message}.",
        "Run the plan again and let it end.",
        _interrupted,
    ),
    Reason(
        "server_died",
        "INVALID",
        "The server died: {message}.",
        "Read the end of logs/server.log; lower load.clients or server.streams if it ran out of memory.",
        _event("server_died"),
    ),
    Reason(
        "balancer_died",
        "INVALID",
        "The balancer died: {message}.",
        "Read logs/balancer.log; check the limits on open files and memory.",
        _event("balancer_died"),
    ),
    Reason(
        "restarted",
        "INVALID",
        "During the run the counters of {who} began again from zero.",
        "Find out why it restarted (logs/, or the external server's own log) and run again.",
        _restarted,
    ),
    Reason(
        "worker_died",
        "INVALID",
        "A load worker died, and with it the load that it should have offered: {message}.",
        "Read logs/worker-*.log; check memory, and the network to a worker on another machine.",
        _event("worker_died"),
    ),
    Reason(
        "reference_failed",
        "INVALID",
        "The reference answers could not be taken: {message}.",
        "Check that the model takes the payload (load.payload, load.shapes, load.ranges); logs/ holds the error.",
        _event("reference_failed"),
    ),
    Reason(
        "no_requests",
        "INVALID",
        "No request was sent inside the measured window.",
        "Read logs/master.log and logs/worker-*.log; lengthen measure.duration_s if one answer takes longer than that.",
        _no_requests,
    ),
    Reason(
        "in_flight_limit",
        "INVALID",
        "{unsent:,} requests were due and not sent: {limit:,} were under way (load.max_in_flight), or the load "
        "generator was too late for them.",
        "Lower the rate (load.rate_rps, load.steps or the trace) to what the server keeps up with, raise "
        "load.max_in_flight, or give the load more load.processes.",
        _in_flight_limit,
    ),
    Reason(
        "failed_answers",
        "INVALID",
        "{failed:,} of {sent:,} requests failed: {errors}.",
        "Read logs/server.log; lower the load, or raise load.timeout_s if the status is timeout.",
        _failed,
    ),
    Reason(
        "wrong_answers",
        "INVALID",
        "{wrong:,} of {sent:,} answers differ from their reference.",
        "Raise load.rtol and load.atol if device or precision explain it; otherwise the server is wrong under load.",
        _wrong,
    ),
    Reason(
        "unaccounted_requests",
        "INVALID",
        "{unaccounted:,} requests of the window are in the balancer's log and in no client's records.",
        "A worker lost records: read logs/worker-*.log; check free disk space and memory for its spool.",
        _unaccounted,
    ),
    Reason(
        "log_lines_dropped",
        "INVALID",
        "{message}.",
        "The balancer's record is incomplete: leave a core to the log collector, or lower the load.",
        _log_dropped,
    ),
    Reason(
        "witnesses_disagree",
        "INVALID",
        "Client, balancer and server do not agree: {differences}.",
        "Make sure that nothing else uses this server or balancer, and look for restarts in logs/.",
        _disagree,
    ),
    Reason(
        "queue_growing",
        "FLAGGED",
        "Requests in flight grew by {grown:,.0f} along the window{told}: more is offered than the server can do.",
        "The latency tells of the window's length, not of the server: lower load.rate_rps until the queue stands.",
        _queue_growing,
    ),
    Reason(
        "not_steady",
        "FLAGGED",
        "Latency changed by {change:+.0%} along the window (99 % bounds {low:+.0%} to {high:+.0%}).",
        "Lengthen measure.warmup_s if it fell; if it rose, look for what fills up: memory, disk, heat, other load.",
        _not_steady,
    ),
    Reason(
        "littles_law",
        "FLAGGED",
        "{in_flight_mean:,.3g} requests were in flight on average, throughput times latency gives {product:,.3g}: what "
        "reaches over the window's edges weighs too much.",
        "Lengthen measure.duration_s to many times the slowest latency.",
        _littles_law,
    ),
    Reason(
        "generator_saturated",
        "FLAGGED",
        "A load worker used {cpu:.0f} % of a core or more for half of the window: some of the latency may be its own.",
        "Raise load.processes, give the load more cores, or lower load.clients.",
        _saturated,
    ),
)
