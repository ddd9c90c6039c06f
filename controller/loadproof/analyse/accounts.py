"""Every request by name: an ordered table whose counts add up to all that the clients planned or the balancer saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np

from loadproof.analyse.population import Records
from loadproof.analyse.reconcile import BalancerLog
from loadproof.analyse.schema import Account, Reconciliation

MEANINGS: Final = {
    "answered right": "the whole answer came, and it matched its reference or was not compared",
    "answered wrong": "the whole answer came and differs from its reference",
    "failed": "answered with an error, or given up by the client",
    "cut": "ended early on its way (HAProxy's termination state): the server may have counted it or not",
    "answered by the balancer": "the balancer answered with an error itself: the server never had it",
    "closed silently": "the server closed the connection without a byte of an answer, and the balancer the client's",
    "never connected": "the client failed before the balancer had the request",
    "lost with the balancer": "under way when the balancer died, or refused after it",
    "not in the log": "failed, and nothing explains why the balancer has no line of it",
    "not sent": "due while load.max_in_flight requests were under way: it never left the client",
    "not sent: the run ended early": "planned, and no witness saw it: who should have sent it died or was told to stop",
    "lost with a worker": "the balancer saw it, and the worker that sent it died before it delivered its record",
    "unaccounted": "the balancer saw it and no client has a record of it: nothing explains that",
    "not ours": "the balancer saw it, without an id of this run's clients",
}

LOST: Final = ("closed silently", "never connected", "lost with the balancer", "not in the log")


def accounts(
    records: Records, log: BalancerLog | None, terms: Reconciliation, planned: int | None = None
) -> list[Account]:
    """Every request of the whole run by name; what did not happen is left out, but for good answers.

    `terms` are those of `reconcile`; `planned` is how many requests the plan of an open loop has: these, audit
    and references are the sum of all counts but those that are not ours. A direct run has no balancer that shows why a
    request failed.
    """
    everything = np.ones(len(records), bool)
    counts = records.counts(everything)
    failures = _failures(log, terms) if log else (("failed", *pair) for pair in records.errors(everything).items())
    lost, unaccounted = terms.lost_with_worker or 0, terms.unaccounted or 0
    before = records.phase("reference") | records.phase("audit")
    taken = len(records) - int(before.sum()) + lost + unaccounted
    rows = [
        ("answered right", "", counts.ok),
        ("answered wrong", "", counts.wrong),
        *failures,
        ("not sent", "", counts.unsent),
        ("not sent: the run ended early", "", max(0, (planned or 0) - taken)),
        ("lost with a worker", "", lost),
        ("unaccounted", "", unaccounted),
        ("not ours", "", log.foreign if log else 0),
    ]
    return [
        Account(name=f"{name}: {detail}" if detail else name, count=count, meaning=MEANINGS[name])
        for name, detail, count in rows
        if count or name == "answered right"
    ]


def _failures(log: BalancerLog, terms: Reconciliation) -> Iterator[tuple[str, str, int]]:
    """Failed records by what became of them, most telling first."""
    failed = Counter(log.failed) + Counter(log.given_up)
    yield from (("failed", status, count) for status, count in failed.items())
    yield from (("cut", termination, count) for termination, count in log.cut_failed.items())
    yield "answered by the balancer", "", log.own_failed
    lost = (terms.closed_silently, terms.never_connected, terms.lost_with_the_balancer, terms.not_in_the_log)
    yield from ((name, "", count or 0) for name, count in zip(LOST, lost, strict=True))
