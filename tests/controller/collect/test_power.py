"""The power meter reads the kernel's tree and a real Prometheus, and says what is not there."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from loadproof.collect.power import PowerMeter
from loadproof.launch import prometheus
from loadproof.sections import Power

RECORDED = {  # of a machine with two packages; cores are a part of package-0, psys of the whole platform
    "intel-rapl:0": ("package-0", "262143328850", "185263476219"),
    "intel-rapl:0:0": ("core", "262143328850", "91263476219"),
    "intel-rapl:0:1": ("dram", "65712999613", "5263476219"),
    "intel-rapl:1": ("package-1", "262143328850", "285263476"),
    "intel-rapl:2": ("psys", "262143328850", "885263476"),
}


def tree(root: Path) -> Path:
    for directory, (name, limit, energy) in RECORDED.items():
        zone = root / directory
        zone.mkdir(parents=True)
        for file, text in (("name", name), ("max_energy_range_uj", limit), ("energy_uj", energy)):
            (zone / file).write_text(text + "\n")
    return root


def rapl(root: Path, **more: float) -> PowerMeter:
    return PowerMeter(Power.model_validate({"source": "rapl", "root": str(root), **more}))


def test_packages_and_memory_are_read_and_what_is_a_part_of_them_is_not(tmp_path: Path) -> None:
    meter = rapl(tree(tmp_path), idle_s=0.01)
    meter.idle()
    rows = meter.table(time.monotonic_ns()).to_pylist()
    assert {json.loads(row["labels"])["zone"]: row["value"] for row in rows} == {
        "package-0 0": 185263476219.0,
        "dram 0:1": 5263476219.0,
        "package-1 1": 285263476.0,
    }
    assert {row["name"] for row in rows} == {"idle_energy_uj"} and all(row["time"] <= 0 for row in rows)
    assert len(rows) >= 6  # at the start and at the end
    assert meter.facts()["ranges_uj"]["dram 0:1"] == 65712999613.0 and meter.problem is None


def test_a_run_is_read_from_before_its_start_until_after_its_edges(tmp_path: Path) -> None:
    meter, t0_ns = rapl(tree(tmp_path)), time.monotonic_ns() + 100_000_000
    meter.follow(t0_ns, (0.15, 0.45))
    time.sleep(0.7)
    meter.stop()
    times = sorted({row["time"] for row in meter.table(t0_ns).to_pylist()})
    assert times[0] < 0 and times[-1] >= 0.45 and len(times) >= 4
    assert any(0.15 <= at_s < 0.45 for at_s in times)


def test_no_counters_and_unreadable_ones_are_a_problem_and_no_zero(tmp_path: Path) -> None:
    meter = rapl(tmp_path / "none")
    meter.idle()
    meter.follow(time.monotonic_ns(), (1.0,))
    meter.stop()
    assert meter.table(0).num_rows == 0 and "no RAPL counters in" in str(meter.facts()["problem"])
    root = tree(tmp_path / "there")
    (root / "intel-rapl:0/energy_uj").unlink()
    meter = rapl(root, idle_s=0.01)
    meter.idle()
    assert meter.table(0).num_rows == 0 and "a reading failed" in str(meter.problem)


def test_a_query_of_a_real_prometheus_is_the_sum_of_its_series() -> None:
    with prometheus.start() as started:
        url = started.address
        query = 'label_replace(vector(120.5), "feed", "a", "", "") or label_replace(vector(30), "feed", "b", "", "")'
        meter = PowerMeter(Power(source="prometheus", url=url, query=query, idle_s=0.01))
        meter.idle()
        assert {row["value"] for row in meter.table(0).to_pylist()} == {150.5}, meter.problem
        none = PowerMeter(Power(source="prometheus", url=url, query="there_is_no_such_meter", idle_s=0.01))
        none.idle()
    assert none.table(0).num_rows == 0 and "the query gives no series" in str(none.problem)


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"source": "constant"}, 'power.watts goes with source = "constant"'),
        ({"source": "rapl", "watts": 5.0}, 'power.watts goes with source = "constant"'),
        ({"source": "prometheus", "url": "http://m"}, 'power.query goes with source = "prometheus"'),
    ],
)
def test_a_source_has_its_own_keys(given: dict[str, object], mistake: str) -> None:
    with pytest.raises(ValueError, match=mistake):
        Power.model_validate(given)
