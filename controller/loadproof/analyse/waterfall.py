"""A sample of requests over the whole range of latencies, each with the balancer's stamps between the client's."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loadproof import rundir
from loadproof.analyse.population import Bools, Ints, Records

SAMPLE: Final = 40


class Sampled(TypedDict):
    """One request; `stamps_ms` are milliseconds from when it was due: sent, [accepted, headers, end,] received."""

    id: str
    percentile: float
    stamps_ms: list[float]


def waterfall(run: Path, records: Records, rows: Bools, t0_epoch_us: int | None) -> list[Sampled]:
    """Some SAMPLE of the good requests in `rows`, fastest first: evenly spread over the nines, the slowest among them.

    The balancer's stamps are of its wall clock, moved to T0 by `t0_epoch_us`. The two clocks agree within some tens of
    microseconds on one machine; a stamp that still falls outside of its request is put at the edge that it crossed.
    Requests without a row, and direct runs, have only the client's stamps.
    """
    index = np.flatnonzero(rows)
    latency = records.latency_ns(rows)
    n = len(index)
    if not n:
        return []
    ranks = np.unique(np.ceil((1 - 10 ** -np.linspace(0, np.log10(n), SAMPLE)) * n).astype(np.int64).clip(1, n) - 1)
    ranks = np.append(ranks, n - 1) if ranks[-1] != n - 1 else ranks
    picked = index[np.argpartition(latency, ranks)[ranks]]
    ids = _ids(run, picked)
    stamps = _stamps(run, ids, t0_epoch_us) if t0_epoch_us is not None else {}
    return [
        {
            "id": one,
            "percentile": 100 * (int(rank) + 1) / n,
            "stamps_ms": _ordered(records, int(row), stamps.get(one, [])),
        }
        for one, rank, row in zip(ids, ranks, picked, strict=True)
    ]


def _ids(run: Path, rows: Ints) -> list[str]:
    """The ids that stand in these rows of requests.parquet."""
    found: dict[int, str] = {}
    start = 0
    for piece in rundir.request_pieces(run, ["id"]):
        here = rows[(rows >= start) & (rows < start + piece.num_rows)]
        texts = piece["id"].take(pa.array(here - start)).to_pylist()
        found |= dict(zip(here.tolist(), texts, strict=True))
        start += piece.num_rows
    return [found[int(row)] for row in rows]


def _stamps(run: Path, ids: list[str], t0_epoch_us: int) -> dict[str, list[float]]:
    """accepted, headers and end of each request that the balancer logged, in ns from T0."""
    names = ("accepted_us", "headers_us", "end_us")
    found = {}
    for piece in rundir.balancer_pieces(run, ["id", *names]):
        for row in piece.filter(pc.is_in(piece["id"], value_set=pa.array(ids, pa.string()))).to_pylist():
            times = [row[name] if row[name] is not None else row["end_us"] for name in names]
            found[row["id"]] = [(time_us - t0_epoch_us) * 1e3 for time_us in times]
    return found


def _ordered(records: Records, row: int, between_ns: list[float]) -> list[float]:
    due, sent, received = (int(column[row]) for column in (records.planned_ns, records.sent_ns, records.received_ns))
    stamps = np.clip(np.maximum.accumulate([sent, *between_ns, received]), sent, received)
    return [float(ns) for ns in (stamps - (due if records.is_open else sent)) / 1e6]
