"""The generator's own state: lateness, connections, and what checking and shipping cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof import analyse
from loadproof_clients.records import UNSENT
from tests.controller import synthetic
from tests.controller.synthetic import Made


def generator(directory: Path, change: synthetic.Change | None = None, **load: Any) -> Any:
    return analyse.run(synthetic.run(directory, change, of=synthetic.spec(**load)), {}).generator


def test_lateness_is_of_the_windows_sent_requests_and_only_an_open_loop_has_it(tmp_path: Path) -> None:
    def late(made: Made) -> None:
        synthetic.fail(made, 1, UNSENT)
        first = int(np.flatnonzero(made.records[1]["status"] == UNSENT)[0])
        made.records[1]["sent_ns"][first] += 10**10  # never sent: not late
        made.records[1]["sent_ns"][first + 1] = made.records[1]["planned_ns"][first + 1] + 40_000_000
        made.records[1]["received_ns"][first + 1] = made.records[1]["sent_ns"][first + 1] + 1000

    found = generator(tmp_path / "open", late, arrivals="poisson", rate_rps=300)
    assert found.lateness_ms_max == 40 and found.unsent == 1
    assert 0 < found.lateness_ms_p50 < found.lateness_ms_p99 < 40
    closed = generator(tmp_path / "closed")
    assert closed.lateness_ms_p50 is closed.lateness_ms_p99 is closed.lateness_ms_max is None


def test_connections_add_up_over_the_workers_and_costs_are_shared_out(tmp_path: Path) -> None:
    def read(made: Made) -> None:
        first = made.generator["worker"] == 1
        made.generator["connections"] = np.where(first, 3, 5)
        made.generator["verify_us"] = np.full(len(first), 2000.0)
        made.generator["ship_us"] = np.where(first, 1000.0, 40_000.0)

    found = generator(tmp_path, read)
    assert found.connections_max == 8
    assert found.verify_us_per_request == pytest.approx(24 * 2000 / 5793)
    assert found.ship_cpu_percent == pytest.approx(4.0)


def test_streams_are_full_where_as_many_requests_are_in_flight_or_one_waited_for_a_stream(tmp_path: Path) -> None:
    def full(made: Made) -> None:
        for name, most in (("in_flight", 20_000), ("held", 3)):
            made.generator[name] = np.zeros(len(made.generator["worker"]))
            made.generator[name][{"in_flight": 4, "held": 6}[name]] = most
        made.generator["connections"] = np.full(len(made.generator["worker"]), 2)

    assert generator(tmp_path, full).streams_full == 2


def test_what_an_older_generator_did_not_tell_is_unknown(tmp_path: Path) -> None:
    def older(made: Made) -> None:
        for name in ("connections", "wait_percent", "stood_ms", "gc_ms", "wall_ns"):
            del made.generator[name]

    found = generator(tmp_path, older)
    assert found.stood is found.gc is found.waited is found.wait_ms_per_request is None
    assert found.clock_steps_ms == {} and found.streams_full == 0
    assert found.connections_max is found.verify_us_per_request is found.ship_cpu_percent is None
