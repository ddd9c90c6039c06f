"""CPU, memory and throttling of the server's container are those of the window."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from loadproof import rundir
from loadproof.analyse.container import usage
from loadproof.analyse.notes import notes
from loadproof.analyse.population import Window
from loadproof.analyse.schema import Container
from tests.controller.summaries import run_summary

FACTS: dict[str, Any] = {"server": {"container": {"image": "i", "image_id": "sha256:0", "engine": {}, "removed": True}}}
WINDOW = Window.of(2, 4)


def sampled(series: dict[str, list[float]], times: list[float]) -> pa.Table:
    rows = [
        (f"container_{name}", at, value)
        for name, values in series.items()
        for at, value in zip(times, values, strict=True)
    ]
    names, at, values = zip(*rows, strict=True) if rows else ((), (), ())
    count = len(rows)
    columns = {"source": ["container"] * count, "name": names, "labels": ["{}"] * count, "time": at, "value": values}
    return pa.table({name: pa.array(columns[name]).cast(rundir.SAMPLES.field(name).type) for name in columns})


def test_the_figures_are_of_the_window_and_memory_of_the_whole_run() -> None:
    series: dict[str, list[float]] = {
        "cpu_usage_seconds_total": [0, 3, 3.1, 4.1, 4.6, 6.5, 6.7, 9.9],
        "memory_working_set_bytes": [1e6, 9e6, 5e6, 5e6, 5e6, 5e6, 5e6, 5e6],
        "cpu_cfs_periods_total": [0, 10, 20, 30, 40, 50, 60, 70],
        "cpu_cfs_throttled_periods_total": [0, 9, 9, 10, 10, 10, 12, 22],
        "cpu_cfs_throttled_seconds_total": [0, 2, 2.0, 2.1, 2.1, 2.1, 2.4, 9],
    }
    found = usage(FACTS, sampled(series, [-1, 1, 2.1, 3, 4, 5, 6.1, 7]), WINDOW)
    assert found is not None and found.model_dump() == {
        "image": "i",
        "image_id": "sha256:0",
        "engine": {},
        "cpu_percent_mean": pytest.approx(90),  # 3.6 s in 4 s
        "cpu_percent_max": pytest.approx(190),
        "memory_bytes_max": 9_000_000,
        "periods": 40,
        "throttled_periods": 3,
        "throttled_s": pytest.approx(0.4),
    }


@pytest.mark.parametrize("times", [[], [3.0]])
def test_without_samples_there_are_nulls(times: list[float]) -> None:
    found = usage(FACTS, sampled({"cpu_usage_seconds_total": [1.0]} if times else {}, times), WINDOW)
    assert found is not None
    assert set(found.model_dump(exclude={"image", "image_id", "engine"}).values()) == {None}


def test_a_server_that_was_not_in_a_container_has_no_such_figures() -> None:
    assert usage({"server": {"command": ["x"]}}, sampled({}, []), WINDOW) is None
    assert usage({}, sampled({}, []), WINDOW) is None


@pytest.mark.parametrize(
    ("seen", "removed", "told"),
    [
        ({"throttled_periods": 3, "periods": 40}, True, ["held back by its CPU limit in 3 of the window's 40 periods"]),
        ({"throttled_periods": 0, "periods": 40}, True, []),
        ({"throttled_periods": None}, False, ["did not say that the server's container is gone"]),
    ],
)
def test_a_reader_is_told_of_the_limit_and_of_what_may_be_left(
    seen: dict[str, Any], removed: bool, told: list[str]
) -> None:
    facts = {"server": {"container": {"removed": removed}}}
    nothing = dict.fromkeys(Container.model_fields)
    run = run_summary(complete=False).model_copy(update={"server_container": Container(**nothing | seen)})
    found = [one for one in notes(facts, run, None) if "container" in one]
    assert len(found) == len(told) and all(text in one for text, one in zip(told, found, strict=True))
