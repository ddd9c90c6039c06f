"""What the records that have come say so far, added up for those who watch a run.

The master counts the chunks that it gets anyway, twice a second: a request costs its worker nothing more, and what is
watched cannot differ from what is reported. The report's figures come from the records themselves, not from here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadproof_clients.records import GRPC_CODES, OK, OWN_FAILURES, PHASES, RECORD, UNSENT, status_name

OUTCOMES: Final = ("ok", "wrong", "failed", "unsent")

# 16 to a decade: a quantile read from them is off by 15 % at the worst, its neighbours' order is kept.
LATENCY_BOUNDS_S: Final = tuple(float(f"{5e-5 * 10 ** (i / 16):.3g}") for i in range(99))  # 50 us to 66.7 s
# 0 has a bucket of its own: in a closed loop no request is late.
LATENESS_BOUNDS_S: Final = (0.0, *(float(f"{1e-5 * 10 ** (i / 4):.2g}") for i in range(25)))  # 10 us to 10 s


class Histogram:
    """Counts of values by bucket, the last for those over all bounds; a value equal to a bound is in its bucket."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = np.zeros(len(bounds_s) + 1, np.int64)
        self.sum_s = 0.0
        self._bounds_ns = np.rint(np.array(bounds_s) * 1e9)

    def add(self, values_ns: npt.NDArray[np.int64]) -> None:
        """Takes more values."""
        places = np.searchsorted(self._bounds_ns, values_ns, side="left")
        self.counts += np.bincount(places, minlength=len(self.counts))
        self.sum_s += float(values_ns.sum()) / 1e9


class Live:
    """Everything that was counted of a run.

    `requests` by (phase, outcome); `failures` by status, where HTTP's are classes ("4xx"); `latency` of the good
    answers, from when they were due, as in the report; `lateness` (due to sent) of all that were sent.
    """

    def __init__(self, protocol: str) -> None:
        answered = GRPC_CODES if protocol == "grpc" else ("4xx", "5xx")
        self.requests = Counter({(phase, outcome): 0 for phase in ("warmup", "measure") for outcome in OUTCOMES})
        self.failures = Counter({status: 0 for status in (*answered, *OWN_FAILURES)})
        self.latency = Histogram(LATENCY_BOUNDS_S)
        self.lateness = Histogram(LATENESS_BOUNDS_S)

    def add(self, data: Any) -> None:
        """Counts more rows of RECORD (bytes, or what has them)."""
        rows = np.frombuffer(data, RECORD)
        status, due_ns, sent_ns = rows["status"], rows["planned_ns"], rows["sent_ns"]
        answered, unsent = status == OK, status == UNSENT
        wrong = answered & rows["verified"] & ~rows["correct"]
        good, failed = answered & ~wrong, ~answered & ~unsent
        for outcome, chosen in zip(OUTCOMES, (good, wrong, failed, unsent), strict=True):
            for phase, count in enumerate(np.bincount(rows["phase"][chosen])):
                if count:
                    self.requests[PHASES[phase], outcome] += int(count)
        for code, count in zip(*np.unique(status[failed], return_counts=True), strict=True):
            self.failures[_status_class(int(code))] += int(count)
        self.latency.add(rows["received_ns"][good] - due_ns[good])
        self.lateness.add((sent_ns - due_ns)[~unsent])


def _status_class(code: int) -> str:
    return f"{code // 100}xx" if 100 <= code < 1000 else status_name(code)
