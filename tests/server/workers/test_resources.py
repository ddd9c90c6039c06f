from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadproof_server.connections.listener import Limits
from loadproof_server.repository.settings import Configuration, ModelSettings
from loadproof_server.workers.resources import WorkerResources


def resources(workers: int) -> list[WorkerResources]:
    return [WorkerResources(number, workers) for number in range(workers)]


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("whole", [7, 8, 9, 100])
def test_the_parts_are_the_whole_and_as_even_as_can_be(workers: int, whole: int) -> None:
    parts = [worker.part_of(whole) for worker in resources(workers)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


def test_every_worker_has_one_at_least() -> None:
    assert [worker.part_of(1) for worker in resources(3)] == [1, 1, 1]


@pytest.mark.parametrize(("workers", "number"), [(1, 4), (2, 5), (3, 8), (8, 8)])
def test_each_cpu_is_one_workers(workers: int, number: int) -> None:
    available = range(10, 10 + number)  # some of which this machine need not have
    found = [worker.cpus(available) for worker in resources(workers)]
    assert sorted(cpu for cpus in found for cpu in cpus) == list(available)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_neighbours_and_both_threads_of_a_core_are_one_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two packages of two cores of two threads, numbered as Linux does."""
    for cpu in range(8):
        directory = tmp_path / str(cpu)
        directory.mkdir()
        (directory / "physical_package_id").write_text(f"{cpu % 2}\n")
        (directory / "core_id").write_text(f"{cpu // 2 % 2}\n")
    monkeypatch.setattr("loadproof_server.workers.resources._TOPOLOGY", f"{tmp_path}/{{}}/{{}}")
    assert [worker.cpus(range(8)) for worker in resources(4)] == [[0, 4], [2, 6], [1, 5], [3, 7]]


def test_what_is_given_is_divided_and_the_rest_stays() -> None:
    properties: dict[str, Any] = {
        "NUM_STREAMS": "5",
        "INFERENCE_NUM_THREADS": 4,
        "CACHE_DIR": "/cache",
        "PERFORMANCE_HINT_NUM_REQUESTS": 5,
        "DEVICE_PROPERTIES": {"CPU": {"NUM_STREAMS": 3}},
    }
    whole = Configuration((ModelSettings("m", Path("m"), 5, plugin_config=properties), ModelSettings("n", Path("n"))))
    (one, none), (other, _) = (worker.configuration(whole).models for worker in resources(2))
    assert one.plugin_config == {
        "NUM_STREAMS": "3",
        "INFERENCE_NUM_THREADS": 2,
        "CACHE_DIR": "/cache/worker-1",
        "PERFORMANCE_HINT_NUM_REQUESTS": 5,
        "DEVICE_PROPERTIES": {"CPU": {"NUM_STREAMS": 2}},
    }
    assert (other.plugin_config["NUM_STREAMS"], other.plugin_config["CACHE_DIR"]) == ("2", "/cache/worker-2")
    assert (one.nireq, other.nireq, none) == (3, 2, whole.models[1])
    assert WorkerResources().configuration(whole) is whole


@pytest.mark.parametrize("streams", ["AUTO", "-1", "0", -1, True])
def test_streams_that_are_no_number_are_not_divided(streams: Any) -> None:
    whole = Configuration((ModelSettings("m", Path("m"), plugin_config={"NUM_STREAMS": streams}),))
    assert WorkerResources(0, 2).configuration(whole).models[0].plugin_config == {"NUM_STREAMS": streams}


def test_connections_and_memory_are_divided_but_each_has_room_for_the_largest_body() -> None:
    whole = Limits()
    assert WorkerResources().limits() == whole
    for workers in (2, 16):
        found = [worker.limits() for worker in resources(workers)]
        assert sum(limits.connections for limits in found) == whole.connections
        assert {limits.held_bytes for limits in found} == {whole.body_bytes}
