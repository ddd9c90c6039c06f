"""The open loop as it runs: requests leave when they are due, whatever the earlier ones do, and each has a record."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof_clients.records import CONNECTION, LOST, PHASES, TIMEOUT, UNSENT
from loadproof_clients.schedule import planned
from loadproof_clients.spec import Load, Measure
from tests.clients.load_run import PAYLOADS, WAYS, Records, Run

S = 1_000_000_000
STEADY = {"arrivals": "poisson", "rate_rps": 60.0, "clients": 5, "processes": 2}
HUNDRED = {"arrivals": "constant", "rate_rps": 100.0, "clients": 5, "processes": 2}
MEASURE = {"warmup_s": 1, "duration_s": 3, "drain_s": 3}


def plan(load: dict[str, Any], measure: dict[str, Any]) -> list[tuple[int, int]]:
    """(due_ns, client) of each request."""
    blocks = planned(Load.model_validate(load), Measure.model_validate(measure))
    return [pair for block in blocks for pair in zip(block.due_ns.tolist(), block.client.tolist(), strict=True)]


def pooled(run: Run) -> Records:
    rows = np.concatenate([run.records(worker["worker"]) for worker in run.saved()["workers"]])
    return rows[np.lexsort((rows["sequence"], rows["planned_ns"]))]


@pytest.fixture(scope="module")
def pair(both: Callable[..., list[Run]]) -> list[Run]:
    """Poisson arrivals, 60 a second, of 5 clients on 2 workers; nothing goes wrong."""
    runs = both(["--delay-ms", "4"], STEADY, MEASURE)
    assert {run.finish() for run in [run.begin(workers=2) for run in runs]} == {0}
    return runs


@pytest.fixture(params=range(len(WAYS)), ids=["-".join(way) for way in WAYS])
def steady(request: pytest.FixtureRequest, pair: list[Run]) -> Run:
    return pair[int(request.param)]


def test_the_records_are_the_schedule_and_the_server_saw_each_once(steady: Run) -> None:
    rows, due = pooled(steady), plan(STEADY, MEASURE)
    assert len(due) > 180
    assert [(row["planned_ns"], row["client"]) for row in rows] == due
    assert steady.by_id().keys() == steady.log().keys()
    assert (rows["status"] == 0).all()
    assert rows["correct"].all()


def test_sequence_is_the_place_in_the_workers_own_part(steady: Run) -> None:
    for worker in (1, 2):
        rows = steady.records(worker)
        in_order = rows[np.argsort(rows["sequence"])]
        assert in_order["sequence"].tolist() == list(range(len(rows)))
        assert (np.diff(in_order["planned_ns"]) >= 0).all()


def test_requests_leave_when_they_are_due_and_never_before(steady: Run) -> None:
    rows = pooled(steady)
    late_ns = rows["sent_ns"] - rows["planned_ns"]
    assert late_ns.min() >= 0
    assert np.quantile(late_ns, 0.25) < 5_000_000  # half of them within 0.1 ms on an idle machine
    t0_ns, log = steady.saved()["t0_monotonic_ns"], steady.log()
    for name, row in steady.by_id().items():
        assert t0_ns + row["sent_ns"] <= log[name]["arrived_ns"] <= log[name]["left_ns"] <= t0_ns + row["received_ns"]


def test_phases_follow_the_planned_time(steady: Run) -> None:
    rows = pooled(steady)
    assert ((rows["planned_ns"] < S) == (rows["phase"] == PHASES.index("warmup"))).all()
    assert rows["planned_ns"].max() < 4 * S


def test_clients_keep_their_connections_and_go_round_the_payloads(steady: Run) -> None:
    rows, log = pooled(steady), steady.log()
    peers = {
        client: {log[name]["peer"] for name, row in steady.by_id().items() if row["client"] == client}
        for client in range(5)
    }
    assert all(peers.values())
    everyone = [peer for mine in peers.values() for peer in mine]
    assert len(set(everyone)) == len(everyone)
    if steady.protocol == "grpc":
        assert len(everyone) == 5
    for client in range(5):
        mine = rows[rows["client"] == client]["payload"].tolist()
        assert mine == [(mine[0] + n) % PAYLOADS for n in range(len(mine))]


def test_the_master_tells_each_workers_clients_and_what_work_costs(steady: Run) -> None:
    workers = steady.saved()["workers"]
    assert sorted((w["first_client"], w["clients"]) for w in workers)[0][0] == 0
    assert sum(w["clients"] for w in workers) == 5
    for worker in workers:
        rows = steady.records(worker["worker"])
        assert worker["complete"]
        assert (worker["sent"], worker["unsent"], worker["records"]) == (len(rows), 0, len(rows))
        assert (
            worker["first_client"]
            <= rows["client"].min()
            <= rows["client"].max()
            < worker["first_client"] + worker["clients"]
        )
        health = [row for row in steady.health() if row["worker"] == worker["worker"]]
        *during, _ = health  # the last is of when all has ended, and they may be closed
        assert during and all(row["connections"] >= worker["clients"] for row in during)
        assert sum(row["verify_us"] for row in health) > 0
        assert sum(row["ship_us"] for row in health) > 0
    assert {"unsent", "connections"} <= next(said for said in steady.events if said["event"] == "progress").keys()


def test_requests_leave_while_the_server_stands_still(both: Callable[..., list[Run]]) -> None:
    """A stall of 1 s every 2 s at 50 requests/s: who is due in it leaves, and waits for its end."""
    load = {"arrivals": "constant", "rate_rps": 50.0, "clients": 2}
    server = ["--delay-ms", "2", "--stall-ms", "1000", "--stall-every-ms", "2000"]
    runs = both(server, load, {"warmup_s": 0, "duration_s": 4})
    for run in [run.begin() for run in runs]:
        assert run.finish() == 0
        rows = pooled(run)
        assert len(rows) == 200
        assert (rows["status"] == 0).all()
        latency_ns = rows["received_ns"] - rows["planned_ns"]
        waited = rows[latency_ns > S // 4]
        assert len(waited) >= 60  # 3/4 of each stalled second
        assert np.median(waited["sent_ns"] - waited["planned_ns"]) < 5_000_000
        assert latency_ns.max() > 0.9 * S
        connections = max(row["connections"] for row in run.health())
        assert (connections == 2) if run.protocol == "grpc" else (20 < connections <= 60)


def test_connections_over_the_1024th_descriptor_are_kept_too(new_run: Callable[..., Run]) -> None:
    load = {"arrivals": "constant", "rate_rps": 500.0, "clients": 1200}
    run = new_run("rest", ["--delay-ms", "0"], load, {"warmup_s": 0, "duration_s": 4.8}).begin()
    assert run.finish() == 0
    rows, log = run.by_id(), run.log()
    assert len(rows) == 2400 and all(row["status"] == 0 for row in rows.values())
    assert len({log[name]["peer"] for name in rows}) < 1250  # two requests each, 2.4 s apart


def test_who_is_due_over_the_limit_in_flight_is_recorded_unsent_and_nobody_waits(
    both: Callable[..., list[Run]],
) -> None:
    load = {"arrivals": "constant", "rate_rps": 100.0, "clients": 4, "max_in_flight": 8, "processes": 2}
    runs = both(["--delay-ms", "500"], load, {"warmup_s": 0, "duration_s": 2})
    for run in [run.begin(workers=2) for run in runs]:
        assert run.finish() == 0
        rows = pooled(run)
        assert rows["planned_ns"].tolist() == [due_ns for due_ns, _ in plan(load, {"warmup_s": 0, "duration_s": 2})]
        unsent = rows[rows["status"] == UNSENT]
        assert len(unsent) >= 140  # 8 in 0.5 s leave: 40 of 200 at most
        assert (unsent["sent_ns"] == unsent["received_ns"]).all()
        assert np.median(unsent["sent_ns"] - unsent["planned_ns"]) < 5_000_000
        sent = rows[rows["status"] != UNSENT]
        assert len(sent) >= 8
        assert (sent["status"] == 0).all()
        assert len(sent) == len(run.log())
        assert sum(worker["sent"] for worker in run.saved()["workers"]) == len(sent)
        assert sum(worker["unsent"] for worker in run.saved()["workers"]) == len(unsent)
        assert all(worker["complete"] for worker in run.saved()["workers"])


def test_requests_that_wait_for_a_stream_are_told(new_run: Callable[..., Run]) -> None:
    load = {"arrivals": "constant", "rate_rps": 100.0, "clients": 2, "transport": "wire"}
    run = new_run("grpc", ["--delay-ms", "100", "--streams", "3"], load, {"warmup_s": 0, "duration_s": 1.2}).begin()
    assert run.finish() == 0
    rows = run.records(1)
    assert len(rows) == 120 and (rows["status"] == 0).all()
    assert (rows["received_ns"] - rows["sent_ns"]).max() > 300_000_000  # their time runs
    assert sum(row["held"] for row in run.health()) > 10


def test_what_is_in_flight_after_the_drain_is_given_up_and_recorded(both: Callable[..., list[Run]]) -> None:
    load = {"arrivals": "constant", "rate_rps": 50.0, "clients": 3}
    runs = both(["--delay-ms", "1000"], load, {"warmup_s": 0, "duration_s": 1.6, "drain_s": 0.4})
    for run in [run.begin() for run in runs]:
        assert run.finish() == 0
        rows = pooled(run)
        assert len(rows) == 80
        given_up = rows[rows["status"] == TIMEOUT]
        assert (rows["status"][rows["planned_ns"] < 0.5 * S] == 0).all()
        assert (given_up["received_ns"] >= 2 * S).all()
        assert len(given_up) >= 15  # those of the last 0.3 s, at least, have no second to be answered in


def test_an_end_that_the_library_never_tells_is_recorded_as_lost_soon_after_the_drain(
    new_run: Callable[..., Run],
) -> None:
    opened = {"arrivals": "constant", "rate_rps": 40.0, "clients": 2}
    measure = {"warmup_s": 0, "duration_s": 1.5, "drain_s": 0.5}
    lies = ["--every", "7", "--lies", "garbage"]
    cases = [
        (protocol, server, load)
        for protocol, server in (("grpc", lies), ("rest", []))
        for load in (opened, {"clients": 30})
    ]
    runs = [new_run(protocol, server, load, measure) for protocol, server, load in cases]
    for run, (protocol, server, load) in zip(
        [run.begin(program="tests.clients.silent_worker") for run in runs], cases, strict=True
    ):
        assert run.finish() == 0, (protocol, load)
        rows, log = run.by_id(), run.log()
        lost = {name: row for name, row in rows.items() if row["status"] == LOST}
        if server and load is opened:
            assert lost.keys() >= {name for name, visit in log.items() if visit["did"] == "garbage"} != set()
        else:
            assert 0 < len(lost) == len(rows.keys() - log.keys())
        received_ns = {int(row["received_ns"]) for row in lost.values()}
        assert min(received_ns) >= 4 * S and max(received_ns) < 10 * S  # 2 s after the drain, and not a minute later
        if load is opened:
            assert len(rows) == 60


def test_lies_and_dead_servers_leave_a_record_for_each_request(both: Callable[..., list[Run]]) -> None:
    load = {"arrivals": "poisson", "rate_rps": 80.0, "clients": 3}
    runs = both(["--every", "5", "--lies", "error", "drop", "wrong"], load, {"warmup_s": 0, "duration_s": 2})
    for run in [run.begin() for run in runs]:
        run.until("progress", phase="measure")
        time.sleep(0.5)
        run.processes["server"].kill()
        assert run.finish() == 0
        rows = pooled(run)
        assert rows["planned_ns"].tolist() == [due_ns for due_ns, _ in plan(load, {"warmup_s": 0, "duration_s": 2})]
        assert CONNECTION in rows["status"]
        assert (rows["verified"] & ~rows["correct"]).any()
        assert np.median(rows["sent_ns"] - rows["planned_ns"]) < 5_000_000


@pytest.fixture(scope="module")
def stopped_and_killed(new_run: Callable[..., Run]) -> tuple[Run, Run]:
    """A run whose master is told to stop, and one of which a worker is killed."""
    measure = {"warmup_s": 0, "duration_s": 600}
    stopped = new_run("grpc", ["--delay-ms", "100"], HUNDRED, measure).begin(workers=2)
    killed = new_run("rest", ["--delay-ms", "50"], HUNDRED, MEASURE).begin(workers=2)
    for run, name, number in ((stopped, "master", signal.SIGTERM), (killed, "worker1", signal.SIGKILL)):
        run.until("progress", phase="measure")
        run.processes[name].send_signal(number)
    assert (stopped.finish(), killed.finish()) == (0, 1)
    return stopped, killed


def test_an_early_stop_leaves_a_record_for_all_that_was_due_until_then(stopped_and_killed: tuple[Run, Run]) -> None:
    run, _ = stopped_and_killed
    assert run.saved()["stopped_early"]
    for worker in run.saved()["workers"]:
        rows = run.records(worker["worker"])
        assert worker["complete"]
        assert sorted(rows["sequence"].tolist()) == list(range(len(rows)))
        assert (rows["status"] == 0).all()
        assert rows["planned_ns"].max() < 30 * S
    assert run.by_id().keys() == run.log().keys()


def test_a_killed_workers_missing_requests_are_known_by_its_clients(stopped_and_killed: tuple[Run, Run]) -> None:
    _, run = stopped_and_killed
    dead, alive = sorted(run.saved()["workers"], key=lambda worker: bool(worker["complete"]))
    assert dead["pid"] == run.processes["worker1"].pid
    assert not dead["complete"]
    assert dead["sent"] >= dead["records"] > 0
    mine = range(dead["first_client"], dead["first_client"] + dead["clients"])
    ids = [
        f"r1.{dead['worker']}.{n}"
        for n, _ in enumerate(due for due, client in plan(HUNDRED, MEASURE) if client in mine)
    ]
    seen = {name[:-2] for name in run.log() if name.split(".")[1] == str(dead["worker"])}
    assert seen <= set(ids)
    assert len(run.records(alive["worker"])) == 400 - len(ids)


def test_a_trace_is_followed(new_run: Callable[..., Run], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("# seconds\n0.1\n0.1\n0.4\n1.2\n2.0\n")
    load = {"arrivals": "trace", "trace": str(trace), "clients": 2}
    run = new_run("grpc", [], load, {"warmup_s": 0.5, "duration_s": 1.5}).begin()
    assert run.finish() == 0
    rows = pooled(run)
    assert (rows["planned_ns"] / S).tolist() == [0.1, 0.1, 0.4, 1.2]
    assert rows["client"].tolist() == [0, 1, 0, 1]


def test_a_bad_trace_is_told_before_workers_are_waited_for(new_run: Callable[..., Run], tmp_path: Path) -> None:
    run = new_run("grpc", [], {"arrivals": "trace", "trace": str(tmp_path / "absent")}, {})
    message = run.master().until("error")["message"]
    assert message.startswith("load.trace: ")
    assert "absent" in message
    assert run.finish() == 2
