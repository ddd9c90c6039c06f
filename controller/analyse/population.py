"""The client's request records as arrays, and the populations that figures are taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from controller import rundir

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_COLUMNS: Final = ("phase", "planned_ns", "sent_ns", "received_ns", "status", "verified", "correct")


class Window(NamedTuple):
    """The measured window, in ns from T0: from `start` up to but not including `end`."""

    start: int
    end: int

    @classmethod
    def of(cls, warmup_s: float, duration_s: float) -> Window:
        return cls(round(warmup_s * 1e9), round((warmup_s + duration_s) * 1e9))


class Records:
    """The columns of requests.parquet, and what follows from them row by row.

    An answer is good when its status is ok and it was not found wrong; one that was not verified counts as good.
    """

    def __init__(self, run: Path) -> None:
        table = rundir.read_requests(run, _COLUMNS)
        self.status: pa.ChunkedArray = table["status"].cast(pa.string())
        self.planned_ns: Ints = table["planned_ns"].to_numpy()
        self.sent_ns: Ints = table["sent_ns"].to_numpy()
        self.received_ns: Ints = table["received_ns"].to_numpy()
        self._phase = table["phase"].cast(pa.string())
        self.answered: Bools = pc.equal(self.status, "ok").to_numpy()
        self.wrong: Bools = self.answered & table["verified"].to_numpy() & ~table["correct"].to_numpy()
        self.good: Bools = self.answered & ~self.wrong
        self.measured: Bools = self.phase("measure")

    def __len__(self) -> int:
        return len(self.sent_ns)

    def phase(self, name: str) -> Bools:
        return np.asarray(pc.equal(self._phase, name).to_numpy())

    def latency_ns(self, rows: Bools) -> Ints:
        """Sent to received, a fresh array: the closed loop's latency."""
        return np.asarray(self.received_ns[rows] - self.sent_ns[rows])

    def counts(self, rows: Bools) -> dict[str, int]:
        """sent = ok + failed + wrong, of the requests in `rows`."""
        return {
            "sent": int(rows.sum()),
            "ok": int((rows & self.good).sum()),
            "failed": int((rows & ~self.answered).sum()),
            "wrong": int((rows & self.wrong).sum()),
        }

    def errors(self) -> dict[str, int]:
        """Requests of the window that failed, by their status."""
        failed = self.status.filter(pa.array(self.measured & ~self.answered))
        return {pair["values"]: pair["counts"] for pair in pc.value_counts(failed).to_pylist()}
