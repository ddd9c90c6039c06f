"""The machine inside the window: whose work its CPUs did, who waited for one, frequencies, throttling, its clock."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pyarrow as pa
from scipy.stats import norm

from loadproof.analyse import statistics, steady
from loadproof.analyse.population import Floats, Window
from loadproof.analyse.schema import Machine, Share
from loadproof.analyse.scrapes import Edges, Scrapes

TICK_HZ: Final = 100  # at least, in every kernel
LOADS: Final = ("server", "balancer", "workers", "controller")


def state(samples: pa.Table, window: Window, requests: int) -> Machine | None:
    """`machine` of a RUN; None where it was not read. Loads are in percent of all CPUs together.

    `other`: busy, and by none of the run's processes; null where those are not all to be seen. `steal`: taken by other
    guests of the host. Each {mean, low, high}, the bounds at 99 %. `pressure_percent`: share of the time in which some
    task of anybody waited for a CPU. `wait_ms_per_request`: what the run's processes waited for a CPU, all their
    threads together, by party. `frequency`: its trend, null where the kernel does not report it.
    """
    scrapes, edges = Scrapes(samples, "machine"), Edges(window.start / 1e9, window.end / 1e9)
    cpus = scrapes.latest("machine_cpus")
    if not cpus:
        return None
    seconds = scrapes.span_s(edges)
    busy_s, own_s, steal_s, pressure_s = (
        scrapes.growth(f"machine_{name}_seconds_total", edges) for name in ("busy", "own", "steal", "pressure")
    )
    other_s = None if busy_s is None or own_s is None else busy_s - own_s
    at, mhz = scrapes.values("machine_frequency_mhz", edges)
    waited = {
        party: spent
        for party in LOADS
        if (spent := scrapes.growth("process_wait_seconds_total", edges, party=party)) is not None
    }
    return Machine(
        cpus=round(cpus),
        other=_share(other_s, cpus * seconds),
        steal=_share(steal_s, cpus * seconds),
        pressure_percent=None if pressure_s is None or not seconds else 100 * pressure_s / seconds,
        wait_ms_per_request={party: spent * 1000 / requests for party, spent in waited.items()} if requests else {},
        frequency=steady.trend(at - window.start / 1e9, mhz, round(window.seconds)) if len(mhz) else None,
        thermal_throttles=scrapes.growth("machine_thermal_throttles_total", edges),
        quota_throttled_s=scrapes.growth("machine_quota_throttled_seconds_total", edges),
        clock_step_ms=step(scrapes.values("machine_wall_seconds", Edges())[1] * 1000),
    )


def step(values: Floats) -> float | None:
    """The largest change that lasts: between the medians of three neighbours and of the next three. None: too few."""
    if len(values) < 6:
        return float(abs(values[-1] - values[0])) if len(values) > 1 else None
    threes = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return float(np.abs(threes[3:] - threes[:-3]).max())


def clock_steps(generator: pa.Table) -> dict[str, float]:
    """By how much each worker's wall clock was set during the run, in ms."""
    rows = generator.filter(generator["wall_ns"].is_valid())
    worker, wall_ms = rows["worker"].to_numpy(), rows["wall_ns"].to_numpy() / 1e6
    found = {str(one): step(wall_ms[worker == one]) for one in np.unique(worker)}
    return {name: by_ms for name, by_ms in found.items() if by_ms is not None}


def _share(spent_s: float | None, of_s: float) -> Share | None:
    """In percent, with the bounds of what the kernel's clock tick makes of it: it looks whose a CPU is TICK_HZ times a
    second, so that a share is that of a sample (its spread at most that of a half)."""
    if spent_s is None or of_s <= 0:
        return None
    mean, half = 100 * spent_s / of_s, 50 * float(norm.ppf((1 + statistics.CONFIDENCE) / 2)) / math.sqrt(TICK_HZ * of_s)
    return Share(mean=mean, low=mean - half, high=mean + half)
