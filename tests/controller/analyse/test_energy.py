"""Joules from counters that begin again, watts from a meter, money from a price; what is not known is never zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from loadproof import rundir
from loadproof.analyse import energy
from loadproof.analyse.population import Window

WINDOW = Window.of(2, 10)
LIMIT_UJ = 262_143_328_850.0  # of a Xeon's package


def samples(*series: tuple[str, str, Any, Any]) -> pa.Table:
    """(name, zone, times, values) each."""
    rows = [
        ("power", name, f'{{"zone": "{zone}"}}', float(time_s), float(value))
        for name, zone, times, values in series
        for time_s, value in zip(times, values, strict=True)
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    arrays = [pa.array(list(column), kind.type) for column, kind in zip(columns, rundir.SAMPLES, strict=True)]
    return pa.table(arrays, schema=rundir.SAMPLES)


def facts(source: str = "rapl", **more: Any) -> dict[str, Any]:
    return {
        "source": source,
        "watts": None,
        "ranges_uj": {"package-0": LIMIT_UJ, "dram": 65.7e9},
        "problem": None,
    } | more


def counter(watts: float, times: Any, begun_uj: float = 0) -> Any:
    return (begun_uj + watts * 1e6 * (np.array(times) - times[0])) % LIMIT_UJ


SECONDS = np.arange(-0.5, 14.0)


def test_a_counter_that_begins_again_in_the_window_loses_nothing() -> None:
    wraps = counter(100, SECONDS, LIMIT_UJ - 650e6)  # after 6.5 s
    assert (np.diff(wraps) < 0).sum() == 1
    found = energy.energy(facts(), samples(("energy_uj", "package-0", SECONDS, wraps)), WINDOW, 500.0)
    assert found is not None
    assert [found.joules, found.watts] == pytest.approx([1000, 100])
    assert found.per_joule == pytest.approx(5) and found.problem is None


def test_packages_and_memory_add_up_and_idle_power_is_taken_off_in_a_figure_of_its_own() -> None:
    before = np.arange(-20.0, -16.0)
    rows = samples(
        ("energy_uj", "package-0", SECONDS, counter(90, SECONDS)),
        ("energy_uj", "dram", SECONDS, counter(10, SECONDS)),
        ("idle_energy_uj", "package-0", before, counter(30, before, LIMIT_UJ - 1e6)),
        ("idle_energy_uj", "dram", before, counter(10, before)),
    )
    found = energy.energy(facts(), rows, WINDOW, 600.0)
    assert found is not None
    assert [found.watts, found.idle_watts] == pytest.approx([100, 40])
    assert [found.per_joule, found.per_joule_above_idle] == pytest.approx([6, 10])


def test_a_meters_watts_are_added_up_over_the_window_alone() -> None:
    watts = np.where((SECONDS > 1) & (SECONDS < 13), 200.0, 50.0)
    found = energy.energy(facts("prometheus"), samples(("watts", "meter", SECONDS, watts)), WINDOW, 400.0)
    assert found is not None and found.watts == pytest.approx(200)
    assert found.idle_watts is None and found.per_joule_above_idle is None


@pytest.mark.parametrize("times", [[], [3.0, 14.0], [0.0, 9.0], [5.0]])
def test_readings_that_do_not_span_the_window_are_no_measurement(times: list[float]) -> None:
    rows = samples(("energy_uj", "package-0", times, counter(100, times) if times else []))
    found = energy.energy(facts(), rows, WINDOW, 500.0)
    assert found is not None and found.problem == "too few readings"
    assert {found.joules, found.watts, found.per_joule, found.per_joule_above_idle} == {None}


def test_a_constant_is_stated_and_has_no_idle() -> None:
    found = energy.energy(facts("constant", watts=250.0), samples(), WINDOW, 500.0)
    assert found is not None and (found.source, found.joules, found.per_joule) == ("constant", 2500.0, 2.0)
    assert found.idle_watts is None and energy.energy(None, samples(), WINDOW, 500.0) is None


def test_less_power_than_at_idle_has_no_inferences_per_joule_above_it() -> None:
    before = np.arange(-20.0, -16.0)
    rows = samples(
        ("energy_uj", "package-0", SECONDS, counter(40, SECONDS)),
        ("idle_energy_uj", "package-0", before, counter(45, before)),
    )
    found = energy.energy(facts(), rows, WINDOW, 600.0)
    assert found is not None and found.per_joule == pytest.approx(15) and found.per_joule_above_idle is None


def test_money_by_the_hour_and_by_a_price_with_a_lifetime() -> None:
    rented = energy.value({"currency": "EUR", "per_hour": 3.6}, 500.0)
    assert rented is not None and (rented.currency, rented.unit, rented.per_unit) == ("EUR", "EUR/h", 500 / 3.6)
    assert rented.per_million == pytest.approx(2.0)
    bought = energy.value({"currency": "$", "price": 8760.0, "lifetime_years": 2}, 500.0)
    assert bought is not None and (bought.unit, bought.per_unit) == ("$", 500 / 8760)
    assert bought.per_million == pytest.approx(0.5 / (500 * 3600) * 1e6)


def test_nothing_served_has_no_price() -> None:
    for ips in (None, 0.0):
        found = energy.value({"currency": "EUR", "per_hour": 1.0}, ips)
        assert found is not None and found.per_unit is None and found.per_million is None
    assert energy.value(None, 5.0) is None
