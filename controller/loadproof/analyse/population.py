"""The client's request records as arrays, and the populations that figures are taken over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadproof import rundir
from loadproof.analyse.schema import Counts
from loadproof_clients.records import OK, UNSENT, status_name

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_COLUMNS: Final = (
    "phase",
    "planned_ns",
    "sent_ns",
    "received_ns",
    "status",
    "verified",
    "correct",
    "payload",
    "worker",
)


class Window(NamedTuple):
    """The measured window, in ns from T0: from `start` up to but not including `end`."""

    start: int
    end: int

    @classmethod
    def of(cls, warmup_s: float, duration_s: float) -> Window:
        return cls(round(warmup_s * 1e9), round((warmup_s + duration_s) * 1e9))

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9

    def holds(self, time_ns: Ints) -> Bools:
        return (time_ns >= self.start) & (time_ns < self.end)


class Records:
    """The columns of requests.parquet, and what follows from them row by row.

    An answer is good when its status is ok and it was not found wrong; one that was not verified counts as good. A
    record is unsent where an open loop's request was due while too many were under way: it never left the client.
    """

    def __init__(self, run: Path, is_open: bool = False) -> None:
        table = rundir.read_requests(run, _COLUMNS)
        self.is_open = is_open
        self.planned_ns: Ints = table["planned_ns"].to_numpy()
        self.sent_ns: Ints = table["sent_ns"].to_numpy()
        self.received_ns: Ints = table["received_ns"].to_numpy()
        self.payload: NDArray[np.uint16] = table["payload"].to_numpy()
        self.worker: NDArray[np.uint16] = table["worker"].to_numpy()
        self._phases, self._phase = rundir.codes(table["phase"])
        self._statuses, self._status = rundir.codes(table["status"])
        self.answered: Bools = self.status_in([status_name(OK)])
        self.unsent: Bools = self.status_in([status_name(UNSENT)])
        self.wrong: Bools = self.answered & table["verified"].to_numpy() & ~table["correct"].to_numpy()
        self.good: Bools = self.answered & ~self.wrong
        self.measured: Bools = self.phase("measure")

    def __len__(self) -> int:
        return len(self.sent_ns)

    @property
    def sent(self) -> int:
        """How many left the client, over the whole run."""
        return len(self) - int(self.unsent.sum())

    def phase(self, name: str) -> Bools:
        return np.asarray(_among(self._phases, [name])[self._phase])

    def status_in(self, names: Sequence[str]) -> Bools:
        return np.asarray(_among(self._statuses, names)[self._status])

    def latency_ns(self, rows: Bools) -> Ints:
        """A fresh array: planned to received in an open loop, sent to received in a closed one."""
        return self.received_ns[rows] - self.planned_ns[rows] if self.is_open else self.service_ns(rows)

    def service_ns(self, rows: Bools) -> Ints:
        """Sent to received, a fresh array."""
        return self.received_ns[rows] - self.sent_ns[rows]

    def lateness_ns(self, rows: Bools) -> Ints:
        """Planned to sent, a fresh array; 0 in a closed loop."""
        return self.sent_ns[rows] - self.planned_ns[rows]

    def counts(self, rows: Bools) -> Counts:
        """Of the requests in `rows`."""
        return Counts(
            sent=int((rows & ~self.unsent).sum()),
            ok=int((rows & self.good).sum()),
            failed=int((rows & ~self.answered & ~self.unsent).sum()),
            wrong=int((rows & self.wrong).sum()),
            unsent=int((rows & self.unsent).sum()),
        )

    def errors(self, rows: Bools) -> dict[str, int]:
        """How many of `rows` failed, by their status."""
        counts = np.bincount(self._status[rows & ~self.answered & ~self.unsent], minlength=len(self._statuses))
        return {name: int(count) for name, count in zip(self._statuses, counts, strict=True) if count}


def _among(texts: Sequence[str], wanted: Sequence[str]) -> Bools:
    return np.array([text in wanted for text in texts], bool)
