"""Do the witnesses agree? Client and balancer joined by request id, and the equations between all three counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.records import PHASES

# Failures after which the request may never have left the client, so that nobody else has to know of it.
MAYBE_UNSENT: Final = ("connection", "timeout", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def matching(requests: pa.ChunkedArray, rows: pa.ChunkedArray) -> NDArray[np.int64]:
    """For each request id the index of its balancer row, -1 where there is none: a hash join of two string columns."""
    if len(rows) == 0:
        return np.full(len(requests), -1)
    return np.asarray(pc.fill_null(pc.index_in(requests, value_set=rows.combine_chunks()), -1).to_numpy(), np.int64)


@dataclass(frozen=True)
class BalancerLog:
    """The balancer's rows beside the client's records, as counts over the whole run."""

    rows: int
    unmatched: dict[str, int]  # rows without a record, by phase; "unknown" for an id that is not ours
    never_arrived: int  # records without a row whose failure explains that
    lost: int  # records without a row that nothing explains
    own_answers: int  # the request never reached the server: no server chosen, or it ended in queue or connect
    cut: int  # ended early once it was on its way: the server may have counted it or not


def balancer_log(match: NDArray[np.int64], status: pa.ChunkedArray, rows: pa.Table) -> BalancerLog:
    """Counts of `rows` (id, termination, server) against the records whose `status` and `match` are given."""
    missing = match < 0
    maybe = pc.is_in(status, value_set=pa.array(MAYBE_UNSENT)).to_numpy()
    known = np.zeros(rows.num_rows, bool)
    known[match[~missing]] = True
    texts = rows["termination"].cast(pa.string())
    early = pc.or_(
        pc.match_substring_regex(texts, "^.[RQC]"), pc.starts_with(rows["server"].cast(pa.string()), "<")
    ).to_numpy()
    normal = pc.equal(texts, "--").to_numpy()
    return BalancerLog(
        rows=rows.num_rows,
        unmatched=_phases(rows["id"].filter(pa.array(~known))),
        never_arrived=int((missing & maybe).sum()),
        lost=int((missing & ~maybe).sum()),
        own_answers=int(early.sum()),
        cut=int((~normal & ~early).sum()),
    )


def reconcile(
    sent: int, log: BalancerLog | None, counter: int | None, served: int | None, unsure: int, has_metrics: bool
) -> dict[str, Any]:
    """The equations between the witnesses' counts over the whole run, and each one that does not hold, in words.

    client sent = balancer rows + never arrived - rows without a record; balancer rows = its counter;
    balancer rows = server success + fail + answered by the balancer itself + cut (the server may have counted these).
    `log` is None for a direct run: then `unsure` requests failed so that the server may have counted them or not.
    """
    terms: dict[str, Any] = {"client_sent": sent, "server_counted": served}
    wrong: list[str] = []
    forwarded, source = sent, "the client sent"
    if log is not None:
        unrecorded = sum(log.unmatched.values())
        terms |= {
            "never_arrived": log.never_arrived,
            "unrecorded": unrecorded,
            "balancer_rows": log.rows,
            "balancer_counted": counter,
            "own_answers": log.own_answers,
            "cut": log.cut,
        }
        if counter is None and sent:
            wrong.append("the balancer's counters were not scraped")
        elif counter is not None and counter != log.rows:
            wrong.append(
                f"the balancer counted {counter:,} requests, its log has {log.rows:,} ({_signed(log.rows - counter)})"
            )
        if log.lost:
            wrong.append(f"{log.lost:,} of the client's {sent:,} requests are not in the balancer's log")
        surplus = log.rows - (sent - log.lost - log.never_arrived) - unrecorded
        if surplus:
            wrong.append(f"{-surplus:,} of the client's requests share an id with another")
        if log.unmatched.get("unknown"):
            wrong.append(f"{log.unmatched['unknown']:,} of the balancer's requests carry no id of this run's clients")
        # The counter is what is compared with the server: a log that dropped lines is told above, once.
        forwarded = (log.rows if counter is None else counter) - log.own_answers
        unsure, source = log.cut, "the balancer forwarded"
    if served is None and has_metrics and sent:
        wrong.append("the server's counters were not scraped")
    if served is not None and not forwarded - unsure <= served <= forwarded:
        bounds = f"{forwarded:,}" if not unsure else f"{forwarded - unsure:,} to {forwarded:,}"
        short = served - (forwarded if served > forwarded else forwarded - unsure)
        wrong.append(f"{source} {bounds} requests, the server counted {served:,} ({_signed(short)})")
    return {**terms, "differences": wrong}


def _phases(ids: pa.ChunkedArray) -> dict[str, int]:
    """How many ids there are of each phase, by the letter at their end."""
    ids = pc.fill_null(ids, "")
    letters = pc.if_else(
        pc.match_substring_regex(ids, r"^[^.]+\.\d+\.\d+\.[a-z]$"), pc.utf8_slice_codeunits(ids, -1), ""
    )
    names = {phase[0]: phase for phase in PHASES}
    return {names.get(pair["values"], "unknown"): pair["counts"] for pair in pc.value_counts(letters).to_pylist()}


def _signed(number: int) -> str:
    return f"{number:+,}"
