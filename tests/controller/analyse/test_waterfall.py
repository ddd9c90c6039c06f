"""The sampled requests span all latencies, and the balancer's stamps lie between the client's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadproof import rundir
from loadproof.analyse.population import Records
from loadproof.analyse.waterfall import SAMPLE, waterfall
from tests.controller import synthetic
from tests.controller.synthetic import Made


def test_fastest_and_slowest_are_among_them_in_order(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path))
    good = records.measured & records.good
    sample = waterfall(tmp_path, records, good, synthetic.T0_US)
    took = [one["stamps_ms"][-1] for one in sample]
    latency_ms = np.sort(records.latency_ns(good)) / 1e6
    assert took == sorted(took) and (took[0], took[-1]) == (latency_ms[0], latency_ms[-1])
    assert SAMPLE // 2 < len(sample) <= SAMPLE + 1
    for one, ms in zip(sample, took, strict=True):
        assert ms == latency_ms[round(one["percentile"] / 100 * len(latency_ms)) - 1]


def test_stamps_are_those_of_the_requests_own_row(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path))
    rows = {row["id"]: row for row in rundir.read_balancer(tmp_path).to_pylist()}
    requests = {row["id"]: row for row in rundir.read_requests(tmp_path).to_pylist()}
    for one in waterfall(tmp_path, records, records.measured, synthetic.T0_US):
        sent, accepted, headers, end, _ = one["stamps_ms"]
        row, sent_us = rows[one["id"]], requests[one["id"]]["sent_ns"] / 1000
        assert sent == 0
        for stamp, name in ((accepted, "accepted_us"), (headers, "headers_us"), (end, "end_us")):
            assert stamp == pytest.approx((row[name] - synthetic.T0_US - sent_us) / 1000)


def test_a_clock_that_is_ahead_never_makes_a_stage_shorter_than_nothing(tmp_path: Path) -> None:
    def ahead(made: Made) -> None:
        for name in ("accepted_us", "headers_us", "end_us"):
            made.balancer[name] = made.balancer[name] + 3000

    records = Records(synthetic.run(tmp_path, ahead))
    for one in waterfall(tmp_path, records, records.measured, synthetic.T0_US):
        assert (np.diff(one["stamps_ms"]) >= 0).all()


def test_requests_without_a_row_or_a_common_time_have_the_clients_stamps(tmp_path: Path) -> None:
    records = Records(synthetic.run(tmp_path, lambda made: synthetic.drop_rows(made, 2000)))
    sample = waterfall(tmp_path, records, records.measured, synthetic.T0_US)
    assert {len(one["stamps_ms"]) for one in sample} == {2, 5}
    assert {len(one["stamps_ms"]) for one in waterfall(tmp_path, records, records.measured, None)} == {2}
    assert waterfall(tmp_path, records, np.zeros(len(records), bool), None) == []


@pytest.mark.parametrize("n", [1, 2, 3, 39, 41])
def test_few_requests_are_all_or_some_of_them(tmp_path: Path, n: int) -> None:
    records = Records(synthetic.run(tmp_path))
    rows = np.zeros(len(records), bool)
    rows[100 : 100 + n] = True
    sample = waterfall(tmp_path, records, rows, None)
    assert len({one["id"] for one in sample}) == len(sample) <= n and sample[-1]["percentile"] == 100
