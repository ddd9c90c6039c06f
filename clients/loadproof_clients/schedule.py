"""When each request of an open-loop run is due, and which client sends it: pure, seeded functions of the plan.

A run's requests come in blocks, so that a long run takes no more memory than a short one, and a longer run only
appends to a shorter one's. Clients are assigned before workers are known: a worker walks the same blocks as all others
and picks its own clients' requests, so that their union does not depend on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from loadproof_clients.spec import REQUESTS_MAX, Load, Measure

BLOCK: Final = 4096  # requests; drawing a block takes 0.1 ms between two sends
GAPS, CLIENTS = range(2)  # what a seed is used for
TRACE_BYTES_MAX: Final = 2**30

Times = npt.NDArray[np.int64]


class TraceError(ValueError):
    """The trace cannot be read; one line that names load.trace."""


class Block(NamedTuple):
    """Some requests in the order of time: `due_ns` from T0 (int64) and `client` (uint16), both of one length."""

    due_ns: Times
    client: npt.NDArray[np.uint16]


def planned(load: Load, measure: Measure, trace_ns: Times | None = None, repeat: int = 1) -> Iterator[Block]:
    """All requests of a run that are due before warmup_s + duration_s, in blocks.

    Each repeat of a Poisson load has arrivals of its own: the same ones again would say nothing new of the server.

    Poisson: each request's client is drawn uniformly, as a Poisson process that is thinned at random falls into
    independent Poisson processes (Kingman, Poisson Processes, 1993, section 5.1): each worker's part is one too. All
    other arrivals go round the clients. `trace_ns` are `read_trace`'s.
    """
    horizon_ns = round((measure.warmup_s + measure.duration_s) * 1e9)
    draw = np.random.default_rng((load.seed, CLIENTS, repeat - 1))
    first = 0
    for due_ns in _arrivals(load, measure, trace_ns, repeat):
        within = int(np.searchsorted(due_ns, horizon_ns))
        if load.arrivals == "poisson":
            client = draw.integers(load.clients, size=len(due_ns))
        else:
            client = (first + np.arange(len(due_ns))) % load.clients
        yield Block(due_ns[:within], client[:within].astype(np.uint16))
        if within < len(due_ns):
            return
        first += within


def count(load: Load, measure: Measure, trace_ns: Times | None = None, repeat: int = 1) -> int:
    """How many requests `planned` has; at most 40 ns of CPU each."""
    return sum(len(block.due_ns) for block in planned(load, measure, trace_ns, repeat))


def part(blocks: Iterator[Block], first_client: int, clients: int) -> Iterator[Block]:
    """The requests of one worker: those of `clients` clients from number `first_client`."""
    for due_ns, client in blocks:
        mine = (client >= first_client) & (client < first_client + clients)
        yield Block(due_ns[mine], client[mine])


def _arrivals(load: Load, measure: Measure, trace_ns: Times | None, repeat: int) -> Iterator[Times]:
    if load.arrivals == "poisson":
        assert load.rate_rps is not None
        return poisson(load.rate_rps, (load.seed, GAPS, repeat - 1))
    if load.arrivals == "trace":
        assert trace_ns is not None
        return (trace_ns[start : start + BLOCK] for start in range(0, len(trace_ns), BLOCK))
    if load.arrivals == "constant":
        assert load.rate_rps is not None
        return steps([(load.rate_rps, measure.warmup_s + measure.duration_s)])
    return steps(load.steps)


def poisson(rate_rps: float, seed: tuple[int, ...]) -> Iterator[Times]:
    """Arrivals with independent exponential gaps, for ever; drawn in blocks, so that more of them only append."""
    draw = np.random.default_rng(seed)
    now_s = 0.0
    while True:
        at_s = now_s + np.cumsum(draw.exponential(1 / rate_rps, BLOCK))
        now_s = float(at_s[-1])
        yield np.rint(at_s * 1e9).astype(np.int64)


def steps(plan: Sequence[tuple[float, float]]) -> Iterator[Times]:
    """Arrivals at a rate that stays the same within each step (rate_rps, duration_s); the steps follow each other.

    Request k is due when the integral of the rate over time has passed k, so the first is due at once, a step that is
    shorter than its gap hands what is left of it on to the next, and a rate of 0 is a pause. Nothing comes after the
    last step, as with k6's stages and Locust's shapes.
    """
    start_s, sum_before = Fraction(0), Fraction(0)  # exact: ten steps of 0.1 s at 10/s are ten requests, not eleven
    for rate, duration in plan:
        rate_rps, duration_s = Fraction(repr(rate)), Fraction(repr(duration))
        sum_after = sum_before + rate_rps * duration_s
        for first in range(ceil(sum_before), ceil(sum_after), BLOCK):
            k = np.arange(first, min(first + BLOCK, ceil(sum_after)))
            at_s = float(start_s) + (k - float(sum_before)) / rate
            yield np.rint(at_s * 1e9).astype(np.int64)
        start_s, sum_before = start_s + duration_s, sum_after


def read_trace(path: Path) -> Times:
    """The times of a trace file in ns (int64); raises TraceError.

    The file has seconds from T0, one a line, ascending; blank lines and `#` comments are skipped.
    """
    try:
        if path.stat().st_size > TRACE_BYTES_MAX:
            raise TraceError(f"load.trace: {path} has over {TRACE_BYTES_MAX} bytes: split the run")
        with path.open(encoding="utf-8") as lines:
            return _times(path, lines)
    except OSError as error:
        raise TraceError(f"load.trace: {path}: {error.strerror}; give a file of this machine") from None
    except UnicodeDecodeError:
        raise TraceError(f"load.trace: {path} is not text: one number of seconds a line") from None


def _times(path: Path, lines: Iterator[str]) -> Times:
    times: list[float] = []
    last_s = 0.0
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        where = f"load.trace: {path}, line {number}"
        try:
            at_s = float(text)
        except ValueError:
            raise TraceError(f"{where}: {text[:40]!r} is not a number of seconds") from None
        if not 0 <= at_s < 1e9:
            raise TraceError(f"{where}: {text[:40]} s: times count from T0, the start of the warm-up")
        if at_s < last_s:
            raise TraceError(f"{where}: {at_s:g} s after {last_s:g} s: sort the times")
        if len(times) == REQUESTS_MAX:
            raise TraceError(f"{where}: over {REQUESTS_MAX:,} requests: split the run")
        times.append(last_s := at_s)
    if not times:
        raise TraceError(f"load.trace: {path} has no times: one number of seconds a line")
    return np.rint(np.array(times) * 1e9).astype(np.int64)
