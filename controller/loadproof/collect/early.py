"""Reads a search's records while they come: a level that fails whatever the rest of its window does is cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from loadproof.analyse import search
from loadproof.analyse.statistics import PERCENTILES
from loadproof.plan import Run
from loadproof_clients.records import OK, PHASES, RECORD

LOOK_INTERVAL_S: Final = 0.5
MEASURE: Final = PHASES.index("measure")
WINDOW_MIN_S: Final = 1.0  # of a shorter one the figures would say nothing
# How many requests the window can have at most, in terms of those planned (open loop) or of the rate so far (closed).
OPEN_MORE, CLOSED_MORE = 1.2, 2.0


class EarlyFailure:
    """Follows the window's requests in the files that the master appends to; `found` is what decided, if it did."""

    def __init__(self, run: Run, work: Path) -> None:
        self.found: dict[str, Any] | None = None
        self._next_s = 0.0
        self._run, self._records = run, work / "records"
        limits = run.slo.model_dump(exclude_none=True)
        self._limits_ms = {name: limits[f"{name}_ms"] for name in PERCENTILES if f"{name}_ms" in limits}
        self._read: dict[Path, int] = {}
        self._latency_ns = self._at_ns = np.empty(0, np.int64)

    def look(self, elapsed_s: float) -> bool:
        """Whether this call found the failure, `elapsed_s` after T0; it reads twice a second at most."""
        if self.found is not None or elapsed_s < self._next_s:
            return False
        self._next_s = elapsed_s + LOOK_INTERVAL_S
        self.found = self.decide(elapsed_s)
        return self.found is not None

    def decide(self, elapsed_s: float) -> dict[str, Any] | None:
        """What decides, `elapsed_s` after T0, where a limit is broken even if all requests still to come were fast."""
        for path in sorted(self._records.glob("worker-*.rec")):
            self._take(path)
        window_s = elapsed_s - self._run.measure.warmup_s
        of = len(self._latency_ns)
        if not WINDOW_MIN_S <= window_s < self._run.measure.duration_s or not of:
            return None
        most = max(of, self._most(of / window_s))
        for name, limit_ms in self._limits_ms.items():
            seen = search.over(self._latency_ns, self._at_ns, limit_ms, PERCENTILES[name])
            worth = seen["worth"] * most / of
            if search.share_holds(seen["over"], most, worth, 1 - PERCENTILES[name], last=False) is False:
                return {"at_s": elapsed_s, "metric": f"{name}_ms", "limit": limit_ms, **seen}
        return None

    def _take(self, path: Path) -> None:
        done = self._read.get(path, 0)
        count = path.stat().st_size // RECORD.itemsize - done
        rows = np.fromfile(path, RECORD, count=count, offset=done * RECORD.itemsize)
        self._read[path] = done + len(rows)
        rows = rows[rows["phase"] == MEASURE]
        latency_ns = rows["received_ns"] - rows["planned_ns"]
        bad = (rows["status"] != OK) | (rows["verified"] & ~rows["correct"])
        self._latency_ns = np.concatenate([self._latency_ns, np.where(bad, search.NEVER_NS, latency_ns)])
        self._at_ns = np.concatenate([self._at_ns, rows["planned_ns"]])

    def _most(self, seen_rps: float) -> int:
        planned_rps = self._run.load.rate_rps
        return int((OPEN_MORE * planned_rps if planned_rps else CLOSED_MORE * seen_rps) * self._run.measure.duration_s)
