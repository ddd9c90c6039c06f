"""The ladder: efficiency and rungs follow from what was seen; what was not seen is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadproof import analyse
from loadproof.report import display
from tests.controller import synthetic
from tests.controller.synthetic import Made

CEILING: dict[str, Any] = {
    "throughput_ips": 2000.0,
    "latency_ms": {"mean": 1.0, "p50": 0.9, "min": 0.8, "max": 3.0},
    "iterations": 20_000,
    "duration_s": 10.0,
    "nireq": 2,
}


def run(directory: Path, ceiling: dict[str, Any] | None, **load: Any) -> Any:
    def change(made: Made) -> None:
        made.facts["ceiling"] = ceiling

    return analyse.run(synthetic.run(directory, change, of=synthetic.spec(**load)), {})


def test_each_witness_is_a_rung_from_the_server_to_the_client(tmp_path: Path) -> None:
    found = run(tmp_path, CEILING)
    rungs = found.ceiling.ladder
    assert [one.rung for one in rungs] == ["in process", "the server alone", "through the balancer", "at the client"]
    means = [one.mean_ms for one in rungs]
    assert means == sorted(means) and means[0] == 1.0 and means[-1] == found.latency_ms.mean
    assert isinstance(rungs[1].p50_ms, tuple)  # the server's is a bucket


def test_efficiency_counts_inferences_and_not_requests(tmp_path: Path) -> None:
    found = run(tmp_path, CEILING, batch=4)
    assert found.ceiling.efficiency == found.throughput_rps * 4 / 2000
    assert f"{100 * found.ceiling.efficiency:.0f} % of it" in display.ceiling(found)


def test_without_a_balancer_there_is_no_such_rung(tmp_path: Path) -> None:
    rungs = [one.rung for one in run(tmp_path, CEILING, via="direct").ceiling.ladder]
    assert "through the balancer" not in rungs and "at the client" in rungs


def test_a_ceiling_that_could_not_be_had_says_why_and_none_that_was_not_asked_for_is_shown(tmp_path: Path) -> None:
    failed = run(tmp_path / "failed", {"error": "benchmark_app: no such device"})
    assert failed.ceiling.efficiency is None and failed.verdict == "VALID"
    assert display.ceiling(failed) == "The ceiling was not measured: benchmark_app: no such device."
    assert run(tmp_path / "none", None).ceiling is None
