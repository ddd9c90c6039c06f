"""The soak's judgement of memory, and that each kind of its requests comes to what it may."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from benchmarks import mixed_load, parties, soak
from benchmarks.mixed_load import KINDS, Clients
from benchmarks.models import ROOT
from tests.ports import free_ports

SECONDS = 1800
AT_S = [float(second) for second in range(SECONDS)]


def memory_mib(leak_10min: float) -> list[float]:
    """Of a server at work: large requests come and go, the allocator keeps a little more for the first minutes."""
    numbers = np.random.default_rng(1)
    at_s = np.array(AT_S)
    settling = 5 * (1 - np.exp(-at_s / 120))
    return list(170 + settling + numbers.exponential(1.5, SECONDS) + leak_10min * at_s / 600)


def test_memory_that_comes_and_goes_is_flat() -> None:
    _, high = soak.growth(AT_S, memory_mib(0), SECONDS / 3)
    assert high < soak.GROWTH_MIB


def test_one_python_object_a_request_is_a_leak() -> None:
    """Of 16 bytes, at 200 requests a second."""
    slope, high = soak.growth(AT_S, memory_mib(16 * 200 * 600 / 2**20), SECONDS / 3)
    assert slope > 1.5
    assert high > soak.GROWTH_MIB


def test_each_kind_of_request_comes_to_what_it_may(tmp_path: Path) -> None:
    file, answers = soak.configured(tmp_path)
    grpc_port, rest_port = free_ports(2)
    command = [sys.executable, "-m", "loadproof_server.main", "--config_path", str(file), "--metrics_enable"]
    command += ["--port", str(grpc_port), "--rest_port", str(rest_port)]
    with parties.started(command, ROOT, (grpc_port, rest_port)) as process:
        watch = soak.Watch(process)

        async def all_of_them() -> None:
            clients = Clients(grpc_port, rest_port, answers, 1)
            await asyncio.gather(*(soak.one(clients, kind, watch) for kind in KINDS for _ in range(3)))
            await clients.close()

        asyncio.run(all_of_them())
    assert [row for row in soak.outcomes(watch) if row["unexpected"]] == []
    assert mixed_load.RIGHT in {outcome for _, outcome in watch.outcomes}
    assert watch.outcomes.total() == 3 * len(KINDS)
