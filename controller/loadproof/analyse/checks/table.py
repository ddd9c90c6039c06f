"""The closed table of reasons: each with what it says, what to do about it, and the check that makes it fire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from loadproof.analyse import schema
from loadproof.analyse.checks import answers, course, events, machine, offer
from loadproof.analyse.checks.events import Fields
from loadproof.analyse.schema import RunSummary, Severity, Verdict

# What has to change so that the reason goes away. "machine": the generator's, as it is set up; "others": whoever else
# used machine or server; "plan": what it asks for is not enough, or not suited, for the figures that it wants.
Blame = Literal["generator", "balancer", "server", "machine", "others", "plan"]


@dataclass(frozen=True)
class Reason:
    """A row of the table: `fields` gives what the message needs where the reason holds for a RUN, else None."""

    code: str
    severity: Severity
    blames: Blame
    message: str
    remedy: str
    fields: Callable[[RunSummary], Fields | None]


def judge(run: RunSummary) -> tuple[Verdict, list[schema.Reason]]:
    """The verdict on a RUN of summary.json by its figures, and its reasons, worst first."""
    found = [(reason, fields) for reason in REASONS if (fields := reason.fields(run)) is not None]
    reasons = [
        schema.Reason(
            code=reason.code,
            severity=reason.severity,
            message=reason.message.format(**fields),
            remedy=reason.remedy,
        )
        for reason, fields in found
    ]
    return (found[0][0].severity if found else "VALID"), reasons


def disturbances(*blamed: Blame) -> frozenset[str]:
    """The codes of what only disturbs a run, and blames one of `blamed`."""
    return frozenset(row.code for row in REASONS if row.severity == "FLAGGED" and row.blames in blamed)


# Worst first: the order in which they are listed, and the first one's severity is the verdict.
REASONS: Final = (
    Reason(
        "interrupted",
        "INVALID",
        "others",
        "{message}.",
        "Run the plan again and let it end.",
        events.interrupted,
    ),
    Reason(
        "server_died",
        "INVALID",
        "server",
        "The server died: {message}.",
        "Read the end of logs/server.log; lower load.clients or server.streams if it ran out of memory.",
        events.event("server_died"),
    ),
    Reason(
        "balancer_died",
        "INVALID",
        "balancer",
        "The balancer died: {message}.",
        "Read logs/balancer.log; check the limits on open files and memory.",
        events.event("balancer_died"),
    ),
    Reason(
        "restarted",
        "INVALID",
        "server",
        "During the run the counters of {who} began again from zero.",
        "Find out why it restarted (logs/, or the external server's own log) and run again.",
        events.restarted,
    ),
    Reason(
        "worker_died",
        "INVALID",
        "generator",
        "A load worker died, and with it the load that it should have offered: {message}.",
        "Read logs/worker-*.log; check memory, and the network to a worker on another machine.",
        events.event("worker_died"),
    ),
    Reason(
        "worker_restarted",
        "INVALID",
        "generator",
        "A load worker began again, too late for this run: {message}.",
        "Find out what restarts it (its log, its supervisor) and run again.",
        events.event("worker_restarted"),
    ),
    Reason(
        "model_changed",
        "INVALID",
        "others",
        "The server changed what it serves during the run: {changes}.",
        "Let nobody reload or reconfigure the server meanwhile; run again.",
        events.model_changed,
    ),
    Reason(
        "reference_failed",
        "INVALID",
        "plan",
        "The reference answers could not be taken: {message}.",
        "Check that the model takes the payload (load.payload, load.shapes, load.ranges); logs/ holds the error.",
        events.event("reference_failed"),
    ),
    Reason(
        "no_requests",
        "INVALID",
        "generator",
        "No request was sent inside the measured window.",
        "Read logs/master.log and logs/worker-*.log; lengthen measure.duration_s if one answer takes longer than that.",
        answers.no_requests,
    ),
    Reason(
        "in_flight_limit",
        "INVALID",
        "server",
        "{unsent:,} requests were due and not sent: {limit:,} were under way (load.max_in_flight), or the load "
        "generator was too late for them.",
        "Lower the rate (load.rate_rps, load.steps or the trace) to what the server keeps up with, raise "
        "load.max_in_flight, or give the load more load.processes.",
        offer.in_flight_limit,
    ),
    Reason(
        "failed_answers",
        "INVALID",
        "server",
        "{failed:,} of {sent:,} requests failed: {errors}.",
        "Read logs/server.log and lower the load; where the status is timeout, raise load.timeout_s or "
        "measure.drain_s.",
        answers.failed,
    ),
    Reason(
        "wrong_answers",
        "INVALID",
        "server",
        "{wrong:,} of {sent:,} answers differ from their reference.",
        "Raise load.rtol and load.atol if device or precision explain it; otherwise the server is wrong under load.",
        answers.wrong,
    ),
    Reason(
        "unaccounted_requests",
        "INVALID",
        "generator",
        "{unaccounted:,} requests of the window are in the balancer's log and in no client's records.",
        "A worker may have lost records: read logs/worker-*.log; check free disk space and memory for its spool.",
        answers.unaccounted,
    ),
    Reason(
        "log_lines_dropped",
        "INVALID",
        "balancer",
        "{message}.",
        "The balancer's record is incomplete: read logs/collector.log; leave the log collector a core, or lower the "
        "load.",
        answers.log_dropped,
    ),
    Reason(
        "witnesses_disagree",
        "INVALID",
        "others",
        "Client, balancer and server do not agree: {differences}.",
        "Make sure that nothing else uses this server or balancer, and look for restarts in logs/.",
        answers.disagree,
    ),
    Reason(
        "late_sends",
        "FLAGGED",
        "generator",
        "{over:,} of {of:,} requests ({share}) were sent over 10 ms after they were due: what was offered is "
        "not what was planned.",
        "Raise load.processes, give the load cores of its own, or lower the rate; latency counts from the due "
        "time all the same.",
        offer.late_sends,
    ),
    Reason(
        "connection_limit",
        "FLAGGED",
        "generator",
        "{message}: requests waited in a queue that nobody measures.",
        "Raise the limit on open files (ulimit -n) for the balancer, or use more load.clients for as many "
        "requests in flight.",
        offer.connection_limit,
    ),
    Reason(
        "queue_growing",
        "FLAGGED",
        "server",
        "Requests in flight grew by {grown:,.0f} along the window{answered}: more is offered than the server can do.",
        "The latency depends on the window's length, not on the server: lower load.rate_rps until the queue stands.",
        course.queue_growing,
    ),
    Reason(
        "not_steady",
        "FLAGGED",
        "server",
        "Latency changed by {change} along the window (99 % bounds {low} to {high}).",
        "Lengthen measure.warmup_s if it fell; if it rose, look for what fills up: memory, disk, heat, other load.",
        course.not_steady,
    ),
    Reason(
        "littles_law",
        "FLAGGED",
        "plan",
        "{in_flight} requests were in flight on average, throughput times latency gives {product}: what "
        "reaches over the window's edges weighs too much.",
        "Lengthen measure.duration_s to many times the slowest latency.",
        course.littles_law,
    ),
    Reason(
        "generator_saturated",
        "FLAGGED",
        "generator",
        "A load worker {message}: some of the latency may be its own.",
        "Raise load.processes, give the load more cores, or lower load.clients.",
        offer.saturated,
    ),
    Reason(
        "cold_start",
        "FLAGGED",
        "plan",
        "The window's first answers took {first_ms} ms where {typical_ms} ms is typical: the server was still cold.",
        "Lengthen measure.warmup_s.",
        course.cold_start,
    ),
    Reason(
        "too_few_samples",
        "FLAGGED",
        "plan",
        "{good:,} good answers are too few for the percentiles that matter here; how many each needs: {wanted}.",
        "Lengthen measure.duration_s or raise the load; without an slo the median's 11 answers are enough.",
        course.too_few_samples,
    ),
    Reason(
        "started_apart",
        "FLAGGED",
        "generator",
        "The workers began {apart_ms:,.0f} ms apart: until the last one, less was offered than planned.",
        "Look for what held one back (cores, its log); a measure.warmup_s that is longer than that keeps it out "
        "of the window.",
        offer.started_apart,
    ),
    Reason(
        "balancer_interfered",
        "FLAGGED",
        "server",
        "The balancer did not only pass requests on: {interference}.",
        "See logs/balancer.log, and the termination states in the report: the server refused or dropped connections.",
        answers.interfered,
    ),
    Reason(
        "cached_answers",
        "FLAGGED",
        "server",
        "An input that was asked before is answered in {ratio} of a fresh one's time (99 % bounds {low} "
        "to {high}): answers come from a cache.",
        "Switch the cache off: the load repeats its inputs (load.payloads), and most of its answers are none of "
        "the model's.",
        answers.cached,
    ),
    Reason(
        "clock_stepped",
        "FLAGGED",
        "machine",
        "A wall clock was set during the run: {clocks}. What relies on it is wrong: the balancer's latencies, its"
        " part in the waterfall.",
        "Stop what sets it (a time service that steps, a resumed virtual machine) and run again.",
        machine.clock_stepped,
    ),
    Reason(
        "other_load",
        "FLAGGED",
        "others",
        "Something else used {mean:.0f} % of this machine's {cpus} CPUs (99 % bounds {low:.0f} to {high:.0f} %)"
        "{waited}.",
        "Stop it and run again. A server in a container of this machine, given by its own address, is taken for "
        "another load.",
        machine.other_load,
    ),
    Reason(
        "cpu_stolen",
        "FLAGGED",
        "others",
        "Other guests of this machine's host took {mean:.1f} % of its CPU time (99 % bounds {low:.1f} to "
        "{high:.1f} %).",
        "Measure on a dedicated host, or repeat and compare.",
        machine.stolen,
    ),
    Reason(
        "shared_cores",
        "FLAGGED",
        "machine",
        "The load shares its cores at a cost: per request its own threads waited {waited_ms} ms for one, all together, "
        "where the mean latency is {latency_ms} ms.",
        "Give the load a machine or cores of its own (taskset), or offer less; compare only with runs on the same "
        "machine.",
        machine.shared_cores,
    ),
    Reason(
        "cpu_speed_changed",
        "FLAGGED",
        "machine",
        "{message}.",
        "Fix the frequency (governor performance, no turbo), see to the cooling, lift the quota; or let it settle"
        " in measure.warmup_s.",
        machine.speed_changed,
    ),
    Reason(
        "near_ceiling",
        "FLAGGED",
        "generator",
        "The busiest load worker made {share} of the {ceiling_rps:,.0f} requests/s that it can make at all "
        "(as calibrated): the rate and the latency may be its own limits, not the server's.",
        'Raise load.processes where cores are free, use load.transport = "wire", let workers on other machines join, '
        "or lower the load.",
        offer.near_ceiling,
    ),
    Reason(
        "mostly_floor",
        "FLAGGED",
        "plan",
        "{floor_ms} ms, {share} of the median latency, is what this load generator measures of a "
        "server that answers at once: the server's own share is the smaller one.",
        'Use load.transport = "wire", whose floor is lower, read the waterfall for the server\'s share, and compare '
        "only with runs of the same machine and transport.",
        offer.mostly_floor,
    ),
)
