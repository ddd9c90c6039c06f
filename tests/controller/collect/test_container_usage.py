"""The engine's stats objects become samples on the run's clock."""

from __future__ import annotations

from typing import Any

import pytest

from loadproof.collect.container_usage import ContainerUsage, read
from loadproof.rundir import SAMPLES

T0_NS = 50_000_000_000


def stats(read: str = "2026-11-24T11:20:00.5Z", cpu_ns: int = 0, memory: dict[str, int] | None = None) -> Any:
    """As of Docker's API 1.41, without what is not read."""
    throttling = {"periods": 20, "throttled_periods": 3, "throttled_time": 250_000_000}
    return {
        "read": read,
        "cpu_stats": {"cpu_usage": {"total_usage": cpu_ns}, "throttling_data": throttling},
        "memory_stats": {"usage": 100, "stats": memory or {}},
    }


@pytest.mark.parametrize(
    ("memory", "expected"),
    [({"total_inactive_file": 30, "inactive_file": 1}, 70), ({"inactive_file": 40}, 60), ({}, 100)],
    ids=["cgroup v1", "cgroup v2", "not told"],
)
def test_memory_is_without_the_page_cache_that_can_go(memory: dict[str, int], expected: float) -> None:
    assert read(stats(cpu_ns=1_500_000_000, memory=memory)) == {
        "container_cpu_usage_seconds_total": 1.5,
        "container_memory_working_set_bytes": expected,
        "container_cpu_cfs_periods_total": 20,
        "container_cpu_cfs_throttled_periods_total": 3,
        "container_cpu_cfs_throttled_seconds_total": 0.25,
    }


@pytest.mark.parametrize(
    "nothing",
    [{}, {"read": "0001-01-01T00:00:00Z"}, {**stats(), "memory_stats": {}}, {**stats(), "cpu_stats": None}],
    ids=["empty", "not started", "ended", "no cpu"],
)
def test_a_container_that_does_not_run_gives_no_sample(nothing: dict[str, Any]) -> None:
    usage = ContainerUsage()
    usage.take(nothing, T0_NS)
    assert usage.table(T0_NS).num_rows == 0


def test_a_sample_that_came_late_keeps_the_engine_s_distance_to_the_others() -> None:
    usage = ContainerUsage()
    came_s = {"2026-11-24T11:20:00.250000123Z": 1.02, "2026-11-24T11:20:01.25Z": 2.80, "2026-11-24T11:20:02.25Z": 3.01}
    for count, (stamp, seconds) in enumerate(came_s.items()):
        usage.take(stats(stamp, cpu_ns=count * 10**9), T0_NS + round(seconds * 1e9))
    table = usage.table(T0_NS)
    assert table.schema == SAMPLES
    rows = [row for row in table.to_pylist() if row["name"] == "container_cpu_usage_seconds_total"]
    assert [row["time"] for row in rows] == pytest.approx([1.01, 2.01, 3.01], abs=1e-6)
    assert [row["value"] for row in rows] == [0, 1, 2]
    assert {(row["source"], row["labels"]) for row in rows} == {("container", "{}")}
