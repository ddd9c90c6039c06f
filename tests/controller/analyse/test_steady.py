"""Trends, the three-window rule and Little's law against series whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadproof.analyse import steady
from loadproof.analyse.population import Records, Window
from tests.controller import synthetic
from tests.controller.synthetic import Made

WINDOW = Window.of(2, 10)


@pytest.mark.parametrize("change", [0.0, 0.5, -0.3])
def test_a_trend_is_found_through_noise_and_a_spike(change: float) -> None:
    at = np.arange(40.0)
    values = 10 * (1 + change * (at / 40 - 0.5)) + np.random.default_rng(1).normal(0, 0.2, 40)
    values[7] = 90
    found = steady.trend(at, values, 40)
    assert found is not None and found.change == pytest.approx(change, abs=0.06)
    assert found.low < found.change < found.high


def test_bounds_of_a_trend_hold_a_steady_series_as_often_as_they_say() -> None:
    rng, at = np.random.default_rng(2), np.arange(20.0)
    found = [steady.trend(at, rng.normal(10, 1, 20), 20) for _ in range(500)]
    assert 0.975 <= np.mean([one is not None and one.low <= 0 <= one.high for one in found]) <= 1


def test_too_few_blocks_or_nothing_at_all_has_no_trend() -> None:
    assert steady.trend(np.arange(9.0), np.ones(9), 9) is None
    assert steady.trend(np.arange(10.0), np.zeros(10), 10) is None


def test_in_flight_is_the_time_integral_of_each_block(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path))
    found = steady.in_flight(records, 1_500_000_000, 700_000_000, 5)
    edges = 1_500_000_000 + 700_000_000 * np.arange(6)
    for mean, start, end in zip(found, edges[:-1], edges[1:], strict=True):
        overlap = np.minimum(records.received_ns, end) - np.maximum(records.sent_ns, start)
        assert mean == pytest.approx(overlap.clip(0).sum() / 7e8)
    assert len(steady.in_flight(records, 0, 10**9, 0)) == 0


def test_three_thirds_that_are_alike_are_steady_and_a_slow_last_one_is_not(tmp_path: Path) -> None:
    def slow_end(made: Made) -> None:
        for rows in made.records.values():
            rows["received_ns"][rows["sent_ns"] > 9e9] += 2_000_000

    even = steady.three_window(Records(synthetic.run(tmp_path / "a")), WINDOW)
    slower = steady.three_window(Records(synthetic.run(tmp_path / "b", slow_end)), WINDOW)
    assert even and even.steady and slower and not slower.steady
    assert slower.latency_ms[2] == pytest.approx(even.latency_ms[2] + 2, rel=0.05)
    assert np.mean(even.throughput_rps) == pytest.approx(474.8, rel=0.01)


def test_littles_law_holds_for_clients_that_wait_and_for_an_open_loop(tmp_path: Path) -> None:
    closed = steady.littles_law(Records(synthetic.run(tmp_path / "a")), WINDOW)
    assert closed and closed.in_flight_mean == pytest.approx(4, rel=0.02)
    assert closed.ratio == pytest.approx(1, rel=0.01)
    synthetic.run(tmp_path / "b", of=synthetic.spec(arrivals="poisson", rate_rps=300))
    opened = steady.littles_law(Records(tmp_path / "b", is_open=True), WINDOW)
    assert opened and opened.in_flight_mean == pytest.approx(opened.rate_rps * opened.latency_ms / 1e3, rel=0.02)


def test_a_run_without_records_is_neither_steady_nor_not(tmp_path: Path) -> None:
    found = steady.steady(Records(tmp_path), WINDOW)
    assert {found.three_window, found.latency, found.in_flight} == {None}
    assert steady.littles_law(Records(tmp_path), WINDOW) is None
