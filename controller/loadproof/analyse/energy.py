"""Energy of a run's window, and what a run costs: inferences per joule and per unit of money; pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loadproof.analyse.population import Window
from loadproof.analyse.schema import Energy, Value

HOURS_PER_YEAR: Final = 8760.0
Floats = NDArray[np.float64]


def energy(facts: Mapping[str, Any] | None, samples: pa.Table, window: Window, ips: float | None) -> Energy | None:
    """`energy` of a RUN: the window's joules, mean watts, watts at idle before the run, inferences per joule.

    Inferences per joule are also inferences a second per watt. `per_joule_above_idle` is of the power above idle alone.
    What was not measured is null, and `problem` says why; None where no power was asked for. A constant is what the
    plan states, and no measurement.
    """
    if facts is None:
        return None
    start_s, end_s = window.start / 1e9, window.end / 1e9
    stated = facts["source"] == "constant"
    joules = float(facts["watts"] or 0) * (end_s - start_s) if stated else _joules(facts, samples, "", start_s, end_s)
    idle_watts = None if stated else _idle_watts(facts, samples)
    watts = None if joules is None or end_s <= start_s else joules / (end_s - start_s)
    above = None if watts is None or idle_watts is None else watts - idle_watts
    return Energy(
        source=facts["source"],
        problem=facts["problem"] or ("too few readings" if joules is None else None),
        joules=joules,
        watts=watts,
        idle_watts=idle_watts,
        per_joule=_ratio(ips, watts),
        per_joule_above_idle=_ratio(ips, above),
    )


def value(cost: Mapping[str, Any] | None, ips: float | None) -> Value | None:
    """`value` of a RUN: inferences a second per unit of money, and the cost of a million; None without `[cost]`.

    `unit` is the currency where the system has a price, and currency an hour where it is rented.
    """
    if cost is None:
        return None
    price = cost.get("price")
    per_hour = cost["per_hour"] if price is None else price / (cost["lifetime_years"] * HOURS_PER_YEAR)
    return Value(
        currency=cost["currency"],
        unit=cost["currency"] if price is not None else f"{cost['currency']}/h",
        per_unit=_ratio(ips, price if price is not None else per_hour),
        per_million=_ratio(per_hour * 1e6, ips and ips * 3600),
    )


def _ratio(over: float | None, under: float | None) -> float | None:
    """None where either is not known, or there is nothing to divide by."""
    return over / under if over and under and under > 0 else None


def _idle_watts(facts: Mapping[str, Any], samples: pa.Table) -> float | None:
    times = [time_s for time_s, _ in _series(samples, "idle_").values()]
    if not times or any(len(one) < 2 for one in times):
        return None
    start_s, end_s = max(one[0] for one in times), min(one[-1] for one in times)
    joules = _joules(facts, samples, "idle_", start_s, end_s)
    return None if joules is None else joules / (end_s - start_s)


def _joules(facts: Mapping[str, Any], samples: pa.Table, prefix: str, start_s: float, end_s: float) -> float | None:
    """Of all zones together between two moments; None where the readings do not reach over them."""
    total = 0.0
    series = _series(samples, prefix)
    for (name, zone), (time_s, readings) in series.items():
        if not time_s[0] <= start_s < end_s <= time_s[-1]:
            return None
        if name.endswith("watts"):
            joules = np.concatenate([[0.0], np.cumsum((readings[1:] + readings[:-1]) / 2 * np.diff(time_s))])
        else:
            joules = unwrapped(readings, facts["ranges_uj"][zone]) / 1e6
        edges = np.interp([start_s, end_s], time_s, joules)
        total += float(edges[1] - edges[0])
    return total if series else None


def unwrapped(counter: Floats, limit: float) -> Floats:
    """The counter from its first reading on, as if it had not begun again after `limit`; it does so once at most
    between two readings (a package of 250 W takes 17 minutes for the usual 2^38 uJ)."""
    steps = np.diff(counter)
    return np.concatenate([[0.0], np.cumsum(np.where(steps < 0, steps + limit, steps))])


def _series(samples: pa.Table, prefix: str) -> dict[tuple[str, str], tuple[Floats, Floats]]:
    """Times and values of each zone's readings, by name and zone, in the order of time."""
    rows = samples.filter(pc.equal(samples["source"].cast(pa.string()), "power")).to_pylist()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["name"] in (f"{prefix}energy_uj", f"{prefix}watts"):
            key = (row["name"], json.loads(row["labels"])["zone"])
            found.setdefault(key, []).append((row["time"], row["value"]))
    return {key: (array[:, 0], array[:, 1]) for key, points in found.items() if len(array := np.array(sorted(points)))}
