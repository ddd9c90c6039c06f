"""Do the witnesses agree? Every request by name, and the equations between the three counts over the whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loadproof import rundir
from loadproof.analyse.join import UNKNOWN, Joined, phase_of, worker_of
from loadproof.analyse.population import Bools, Records
from loadproof.analyse.schema import Reconciliation
from loadproof_clients.records import PHASES

# Failures after which the request may never have left the client, so that nobody else has to know of it. In the second
# kind it was the client who ended it: the balancer may still wait for the server's answer, and have no line yet.
NOT_CONNECTED: Final = ("connection", "UNAVAILABLE")
GIVEN_UP: Final = ("timeout", "DEADLINE_EXCEEDED", "lost")
MAYBE_UNSENT: Final = (*NOT_CONNECTED, *GIVEN_UP)


@dataclass(frozen=True)
class BalancerLog:
    """The balancer's rows beside the client's records, as counts over the whole run."""

    rows: int
    own_answers: int  # rows that never reached the server: no server chosen, or ended in queue or connect
    cut: int  # rows that ended early once they were on their way: the server may have counted them or not
    shared: int  # records that share their id with another
    foreign: int  # rows with no id of this run's clients
    lost_with_worker: dict[str, int]  # rows without a record, whose worker did not deliver all of its own, by phase
    unaccounted: dict[str, int]  # rows without a record that nothing explains, by phase
    answered_unlogged: int  # answered records without a row
    failed_unlogged: int  # failed records without a row, and no reason to think that they never left
    maybe_unsent: int  # failed records without a row that may never have left the client, but for those given up
    given_up: dict[str, int]  # records without a row of requests that the client gave up, by status
    failed: dict[str, int] = field(default_factory=dict)  # failed records with a row that ended well, by status
    cut_failed: dict[str, int] = field(default_factory=dict)  # failed records with a cut row, by the row's termination
    own_failed: int = 0  # failed records with a row that never reached the server
    answered_itself: int = 0  # rows that never reached the server, and it was not the client who left


@dataclass(frozen=True)
class Counters:
    """How much each witness's counters grew over the whole run; None where they were not scraped."""

    balancer: int | None = None  # haproxy_backend_http_requests_total
    sessions: int | None = None  # haproxy_backend_sessions_total
    server: int | None = None  # success and fail


@dataclass(frozen=True)
class Circumstances:
    """What the controller knows of the run that explains why a count is short."""

    load_began: bool = True  # before that the counters are looked at once: there is no growth
    server_has_metrics: bool = True
    server_died: bool = False
    balancer_died: bool = False
    worker_died: bool = False
    restarted: Sequence[str] = ()  # witnesses whose counters began again


def balancer_log(records: Records, joined: Joined, rows: pa.Table, incomplete_workers: Sequence[int]) -> BalancerLog:
    """Counts of `rows` (termination, server; in the order of `joined.row_keys`) against the records."""
    own, cut, terminations = _outcomes(rows)
    failed = ~records.answered & ~records.unsent
    matched = joined.row >= 0
    missing = ~matched & ~records.unsent
    given_up, maybe = missing & records.status_in(GIVEN_UP), missing & records.status_in(NOT_CONNECTED)
    known = np.zeros(len(joined.row_keys), bool)
    known[joined.row[matched]] = True
    unmatched = joined.row_keys[~known]
    ours = unmatched[unmatched != UNKNOWN]
    with_worker = np.isin(worker_of(ours), np.array(incomplete_workers, np.int64))
    failed_matched = np.flatnonzero(failed & matched)
    failed_rows = joined.row[failed_matched]
    normal = np.zeros(len(records), bool)
    normal[failed_matched[~own[failed_rows] & ~cut[failed_rows]]] = True
    return BalancerLog(
        rows=len(joined.row_keys),
        own_answers=int(own.sum()),
        cut=int(cut.sum()),
        shared=int(matched.sum()) - int(known.sum()),
        foreign=len(unmatched) - len(ours),
        lost_with_worker=_by_phase(ours[with_worker]),
        unaccounted=_by_phase(ours[~with_worker]),
        answered_unlogged=int((missing & records.answered).sum()),
        failed_unlogged=int((missing & failed & ~maybe & ~given_up).sum()),
        maybe_unsent=int(maybe.sum()),
        given_up=records.errors(given_up),
        failed=records.errors(normal),
        cut_failed=_counted(terminations[failed_rows[cut[failed_rows]]]),
        own_failed=int(own[failed_rows].sum()),
        answered_itself=int((own & ~np.char.startswith(terminations, "C")).sum()),
    )


def reconcile(
    sent: int, log: BalancerLog | None, counters: Counters, unsure: int, known: Circumstances
) -> Reconciliation:
    """The equations between the witnesses' counts over the whole run, and each one that does not hold, in words.

    client sent + rows without a record = balancer rows + closed silently + never connected + given up without a row;
    balancer's request counter = rows + lines that its log lost; its sessions = its requests + closed silently + still
    waiting for the server though the client gave up;
    server success + fail = balancer requests - its own answers, less those cut and more those closed silently or still
    waiting, as far as the server counted them.
    `log` is None for a direct run: then `unsure` requests failed so that the server may have counted them or not.
    """
    restarted = list(known.restarted)
    if log is None:
        high = sent + (counters.server or 0 if known.worker_died else 0)
        found = _server(counters.server, sent - unsure, high, "the client sent", sent, known)
        return Reconciliation(client_sent=sent, server_counted=counters.server, restarted=restarted, differences=found)
    losses = _losses(log, counters, known)
    wrong = _balancer(sent, log, counters, losses, known)
    # The counter is what is compared with the server: a log that dropped lines has a difference of its own, above.
    requests = log.rows if counters.balancer is None else max(log.rows, counters.balancer)
    high = requests - log.own_answers + sum(losses[key] for key in ("closed_silently", "waiting", "closed_with_worker"))
    if known.balancer_died:  # what it had passed on and not yet logged
        high += log.answered_unlogged + log.failed_unlogged + log.maybe_unsent + sum(log.given_up.values())
    low = requests - log.own_answers - log.cut - losses["lines_missing"]
    return Reconciliation(
        client_sent=sent,
        server_counted=counters.server,
        restarted=restarted,
        balancer_rows=log.rows,
        balancer_counted=counters.balancer,
        own_answers=log.own_answers,
        cut=log.cut,
        **losses,
        lost_with_worker=sum(log.lost_with_worker.values()) + losses["closed_with_worker"],
        unaccounted=sum(log.unaccounted.values()),
        differences=wrong + _server(counters.server, low, high, "the balancer forwarded", sent, known),
    )


def _losses(log: BalancerLog, counters: Counters, known: Circumstances) -> dict[str, int]:
    """Records without a row, by what became of them; the balancer's counters say how many of them it had."""
    closed = max(0, (counters.sessions or 0) - (counters.balancer or 0)) if not known.balancer_died else 0
    lines = max(0, (counters.balancer or 0) - log.rows)
    answered, failed, maybe = log.answered_unlogged, log.failed_unlogged, log.maybe_unsent
    closed_failed = min(closed, failed)
    closed_maybe = min(closed - closed_failed, maybe)
    unexplained = answered + failed - closed_failed
    waiting = min(closed - closed_failed - closed_maybe, sum(log.given_up.values()))
    left = closed - closed_failed - closed_maybe - waiting
    return {
        "lines_missing": lines,
        "closed_silently": closed_failed + closed_maybe,
        "waiting": waiting,
        "closed_with_worker": left if known.worker_died else 0,
        "closed_unknown": 0 if known.worker_died else left,
        "never_connected": 0 if known.balancer_died else maybe - closed_maybe,
        "lost_with_the_balancer": failed + maybe if known.balancer_died else 0,
        "unlogged": 0 if known.balancer_died else max(0, unexplained - lines),
        "not_in_the_log": 0 if known.balancer_died else failed - closed_failed,
    }


def _balancer(
    sent: int, log: BalancerLog, counters: Counters, losses: Mapping[str, int], known: Circumstances
) -> list[str]:
    wrong = []
    # A balancer that died, or began again, cannot have counted all that it logged.
    whole = not known.balancer_died and "balancer" not in known.restarted
    if counters.balancer is None and sent and known.load_began and not known.balancer_died:
        wrong.append("the balancer's counters were not scraped")
    if counters.balancer is not None and counters.balancer < log.rows and whole:
        short = _signed(log.rows - counters.balancer)
        wrong.append(f"the balancer counted {counters.balancer:,} requests, its log has {log.rows:,} ({short})")
    if losses["unlogged"]:
        wrong.append(f"{losses['unlogged']:,} of the client's {sent:,} requests are not in the balancer's log")
    if losses["closed_unknown"]:
        wrong.append(f"the balancer closed {losses['closed_unknown']:,} more requests silently than the client missed")
    if log.shared:
        wrong.append(f"{log.shared:,} of the client's requests share an id with another")
    if log.foreign:
        wrong.append(f"{log.foreign:,} of the balancer's requests carry no id of this run's clients")
    return wrong


def _server(served: int | None, low: int, high: int, source: str, sent: int, known: Circumstances) -> list[str]:
    """The server's count must lie from `low` to `high`; one that died or began again can only have counted less."""
    if served is None:
        missed = known.server_has_metrics and sent and known.load_began and not known.server_died
        return ["the server's counters were not scraped"] if missed else []
    if known.server_died or "server" in known.restarted:
        low = 0
    if low <= served <= high:
        return []
    bounds = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    off = _signed(served - (high if served > high else low))
    return [f"{source} {bounds} requests, the server counted {served:,} ({off})"]


def _outcomes(rows: pa.Table) -> tuple[Bools, Bools, NDArray[np.str_]]:
    """Of each row: it never reached the server; it was cut on its way; its termination, as HAProxy's %ts."""
    names, termination = rundir.codes(rows["termination"])
    servers, server = rundir.codes(rows["server"])
    texts = np.array(names, str)
    early = np.array([text[1:2] in ("R", "Q", "C") for text in names])[termination]
    own = early | np.array([text.startswith("<") for text in servers])[server]
    return own, ~own & (texts != "--")[termination], texts[termination]


def _by_phase(keys: NDArray[np.int64]) -> dict[str, int]:
    counts = np.bincount(phase_of(keys), minlength=len(PHASES))
    return {phase: int(count) for phase, count in zip(PHASES, counts, strict=True) if count}


def _counted(texts: NDArray[np.str_]) -> dict[str, int]:
    names, counts = np.unique(texts, return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}


def _signed(number: int) -> str:
    return f"{number:+,}"
