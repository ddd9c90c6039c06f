"""The load programs as they run: a master and its workers against a real server, each a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from loadproof_clients.records import CONNECTION, GRPC_CODES, PHASES, TIMEOUT, UNKNOWN_NS, UNREADABLE
from loadproof_clients.tensors import files
from loadproof_clients.tensors.tensor import DTYPES, Tensor
from tests.clients.load_run import PAYLOADS, ROOT, WAYS, Run
from tests.ports import free_ports

LIES = {
    "grpc": {
        "error": GRPC_CODES["RESOURCE_EXHAUSTED"],
        "drop": CONNECTION,
        "garbage": UNREADABLE,
        "wrong": 0,
        "short": 0,
    },
    "rest": {"error": 429, "drop": CONNECTION, "garbage": UNREADABLE, "wrong": 0, "short": 0},
}
TWO = {"clients": 5, "processes": 2}


@pytest.fixture(scope="module")
def pair(both: Callable[..., list[Run]]) -> list[Run]:
    """Runs in which nothing goes wrong: 5 clients on 2 workers, 0.5 s of warm-up, 1 s of measurement."""
    runs = both(["--delay-ms", "4"], TWO, {"warmup_s": 0.5, "duration_s": 1.0, "drain_s": 3})
    assert {run.finish() for run in [run.begin(workers=2) for run in runs]} == {0}
    return runs


@pytest.fixture(params=range(len(WAYS)), ids=["-".join(way) for way in WAYS])
def clean(request: pytest.FixtureRequest, pair: list[Run]) -> Run:
    return pair[int(request.param)]


def test_every_request_is_a_record_and_reached_the_server_once(clean: Run) -> None:
    records = clean.by_id()
    assert records.keys() == clean.log().keys()
    assert len(records) > 50
    assert all(row["status"] == 0 and row["verified"] and row["correct"] for row in records.values())


def test_times_of_a_record_enclose_what_the_server_did(clean: Run) -> None:
    t0_ns, log = clean.saved()["t0_monotonic_ns"], clean.log()
    for name, row in clean.by_id().items():
        assert row["planned_ns"] == row["sent_ns"]
        assert t0_ns + row["sent_ns"] <= log[name]["arrived_ns"] <= log[name]["left_ns"] <= t0_ns + row["received_ns"]


def test_the_first_byte_is_known_where_the_transport_shows_it(clean: Run) -> None:
    t0_ns, log = clean.saved()["t0_monotonic_ns"], clean.log()
    for name, row in clean.by_id().items():
        if clean.transport == "tritonclient":
            assert row["first_byte_ns"] == UNKNOWN_NS
        else:
            assert log[name]["arrived_ns"] <= t0_ns + row["first_byte_ns"] <= t0_ns + row["received_ns"]


def test_nothing_is_begun_before_t0_or_after_the_end_and_phases_follow_the_plan(clean: Run) -> None:
    """A client decides, and fixes the phase, between its last answer and the sending: the edge may fall in between."""
    rows = clean.by_id().values()
    for client in range(5):
        freed_ns = 0
        for row in sorted((row for row in rows if row["client"] == client), key=lambda row: int(row["sent_ns"])):
            assert 0 <= freed_ns <= row["sent_ns"]
            assert freed_ns < 1_500_000_000
            warmed_up = PHASES[row["phase"]] == "measure"
            assert row["sent_ns"] >= 500_000_000 if warmed_up else freed_ns < 500_000_000
            freed_ns = int(row["received_ns"])


def test_workers_start_together(clean: Run) -> None:
    first_ns = [int(clean.records(worker)["sent_ns"].min()) for worker in (1, 2)]
    assert max(first_ns) < 400_000_000  # a few ms on an idle machine


def test_a_client_has_one_connection_and_one_request_at_a_time(clean: Run) -> None:
    log, records = clean.log(), clean.by_id()
    peers = {(row["client"], log[name]["peer"]) for name, row in records.items()}
    assert sorted(client for client, _ in peers) == [0, 1, 2, 3, 4]
    assert len({peer for _, peer in peers}) == 5
    for client in range(5):
        mine = sorted((row["sent_ns"], row["received_ns"]) for row in records.values() if row["client"] == client)
        assert all(received <= sent for (_, received), (sent, _) in itertools.pairwise(mine))


def test_clients_go_round_the_payloads_from_different_starts(clean: Run) -> None:
    rows = np.concatenate([clean.records(1), clean.records(2)])
    rounds = [rows[rows["client"] == client] for client in range(5)]
    payloads = [r[np.argsort(r["sent_ns"])]["payload"].tolist() for r in rounds]
    assert sorted(mine[0] for mine in payloads) == [0, 1, 2, 3, 4]
    assert all(p == (mine[0] + n) % PAYLOADS for mine in payloads for n, p in enumerate(mine))


def test_the_master_tells_and_saves_how_it_went(clean: Run) -> None:
    kinds = [said["event"] for said in clean.events]
    assert list(dict.fromkeys(kinds)) == ["listening", "workers", "armed", "start", "progress", "end"]
    end, saved = clean.events[-1], clean.saved()
    assert end["workers"] == saved["workers"]
    assert not saved["stopped_early"]
    for worker in saved["workers"]:
        rows = len(clean.records(worker["worker"]))
        assert worker["complete"]
        assert worker["sent"] == worker["records"] == rows
    assert sorted(worker["clients"] for worker in saved["workers"]) == [2, 3]
    health = [json.loads(line) for line in (clean.out / "generator.jsonl").read_text().splitlines()]
    assert {row["worker"] for row in health} == {1, 2}
    assert all(row["rss_bytes"] > 10_000_000 and row["cpu_percent"] >= 0 and row["time_s"] > 0.8 for row in health)
    assert not list(clean.out.glob("*.spool"))


def test_every_lie_is_recorded_for_what_it_is(new_run: Callable[..., Run]) -> None:
    measure = {"warmup_s": 0, "duration_s": 1.5}
    runs = [
        new_run(protocol, ["--every", "7", "--lies", *LIES[protocol]], {"transport": transport}, measure).begin()
        for protocol, transport in WAYS
    ]
    for run in runs:
        lies = LIES[run.protocol]
        assert run.finish() == 0
        log, records = run.log(), run.by_id()
        assert log.keys() == records.keys()
        assert {entry["did"] for entry in log.values()} == {"ok", *lies}
        for name, row in records.items():
            did = log[name]["did"]
            assert row["status"] == lies.get(did, 0)
            assert row["verified"] == (row["status"] == 0)
            assert row["correct"] == (did == "ok")


def test_what_is_not_answered_in_time_is_given_up_and_recorded(both: Callable[..., list[Run]]) -> None:
    """In the window after load.timeout_s (the client goes on), at its end after the drain."""
    server = ["--every", "11", "--lies", "stall", "--stall-s", "60"]
    runs = both(server, {"timeout_s": 0.7}, {"warmup_s": 0, "duration_s": 2, "drain_s": 0.3})
    for run in [run.begin() for run in runs]:
        assert run.finish() == 0
        log, records = run.log(), run.by_id()
        assert records.keys() >= log.keys()  # on a busy machine one may be given up before the server saw it
        stalled = [name for name, entry in log.items() if entry["did"] == "stall"]
        assert {int(records[name]["status"]) for name in stalled} == {TIMEOUT}
        rows = run.records(1)
        late = rows[rows["status"] == TIMEOUT]
        waited_ns = late["received_ns"] - late["sent_ns"]
        assert ((waited_ns > 690_000_000) | (late["received_ns"] >= 2_300_000_000)).all()
        assert rows["sent_ns"].max() > late["received_ns"].min()


def test_a_killed_worker_is_told_and_what_it_recorded_is_recovered(new_run: Callable[..., Run]) -> None:
    run = new_run("grpc", [], TWO, {"warmup_s": 0, "duration_s": 4}).begin(answers=False, workers=2)
    run.until("progress", phase="measure")
    t0_ns = next(said for said in run.events if said["event"] == "start")["t0_monotonic_ns"]
    time.sleep(max(0, (t0_ns - time.monotonic_ns()) / 1e9 + 1.8))
    run.processes["worker0"].kill()
    killed_ns = time.monotonic_ns() - t0_ns
    assert run.finish() == 1
    lost = next(said for said in run.events if said["event"] == "worker_lost")
    dead, alive = sorted(run.saved()["workers"], key=lambda worker: bool(worker["complete"]))
    assert dead["worker"] == lost["worker"]
    assert dead["pid"] == run.processes["worker0"].pid
    assert alive["complete"]
    assert not dead["complete"]
    assert run.events[-1]["event"] == "error"
    rows = run.records(dead["worker"])
    assert dead["records"] == len(rows) > 0
    assert killed_ns - 1_500_000_000 < rows["received_ns"].max() < killed_ns
    in_flight = int(rows["sequence"].max()) + 1 - len(rows)  # those that later ones had overtaken when it died
    assert 0 <= in_flight < TWO["clients"]
    assert set(run.by_id()) <= set(run.log())
    assert run.records(alive["worker"])["sent_ns"].max() > killed_ns
    assert not rows["verified"].any()  # there were no answers


def test_sigterm_ends_the_run_early_with_all_its_records(new_run: Callable[..., Run]) -> None:
    load = {"verify": 0.5}
    run = new_run("rest", [], load, {"warmup_s": 0, "duration_s": 600})
    run.begin(floats=1_500_000)  # 30 MB of payloads and as much of answers: many messages from master to worker
    run.until("progress", phase="measure")
    time.sleep(1)
    run.processes["master"].send_signal(signal.SIGTERM)
    assert run.finish() == 0
    assert run.saved()["stopped_early"]
    assert all(worker["complete"] for worker in run.saved()["workers"])
    assert set(run.by_id()) == set(run.log())
    rows = run.records(1)
    assert rows["verified"].any()
    assert not rows["verified"].all()


def test_sigterm_before_the_workers_came_ends_at_once(new_run: Callable[..., Run]) -> None:
    run = new_run("grpc", [], TWO, {}).begin(workers=1)
    run.until("workers", ready=1)
    run.processes["master"].send_signal(signal.SIGTERM)
    assert run.finish() == 0
    assert run.saved()["stopped_early"]
    assert run.saved()["t0_monotonic_ns"] is None


def test_a_server_that_cannot_be_reached_ends_the_run_before_it_starts(both: Callable[..., list[Run]]) -> None:
    runs = both([], {}, {})
    for run in runs:
        run.processes["server"].kill()
        run.processes["server"].wait()
    for run in [run.begin() for run in runs]:
        assert run.finish() == 1
        assert run.events[-1]["event"] == "error"
        assert "cannot reach the server at 127.0.0.1:" in run.events[-1]["message"]
        assert "start" not in [said["event"] for said in run.events]


def test_a_connection_may_take_longer_than_a_tenth_of_a_second(both: Callable[..., list[Run]]) -> None:
    """As on a busy machine or a long way: gRPC's shortest attempt to connect is min_reconnect_backoff_ms, too."""
    measure = {"warmup_s": 0.0, "duration_s": 1.0, "drain_s": 3}
    runs = both(["--delay-ms", "4"], {"clients": 2}, measure)
    for run in runs:
        spec = json.loads((run.place / "spec.json").read_text())
        far = f"127.0.0.1:{free_ports(1)[0]}"
        run.start("relay", ["-m", "tests.relay", "--delay-ms", "150", f"{far}={spec['url']}"])
        assert (relay := run.processes["relay"].stdout) is not None and relay.readline() == "listening\n"
        (run.place / "spec.json").write_text(json.dumps({**spec, "url": far}))
        run.begin()
    for run in runs:
        assert run.processes["master"].wait(60) == 0
        assert run.by_id().keys() == run.log().keys() != set()


def test_a_server_that_dies_leaves_failed_connections_and_no_busy_loop(both: Callable[..., list[Run]]) -> None:
    def kill_once_it_measures(run: Run) -> None:
        run.until("progress", phase="measure")
        run.processes["server"].kill()

    duration_s = 15  # on a crowded machine the last one begins late, and none may end before
    runs = [run.begin() for run in both([], {}, {"warmup_s": 0, "duration_s": duration_s})]
    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(kill_once_it_measures, runs))
    for run in runs:
        assert run.finish() == 0
        rows = run.records(1)
        failed = rows[rows["status"] != 0]
        assert set(failed["status"].tolist()) == {CONNECTION}
        assert 4 <= len(failed) <= 4 * duration_s / 0.05 + 4


def test_the_web_ui_shows_the_run_and_changes_nothing(new_run: Callable[..., Run]) -> None:
    run = new_run("grpc", [], {}, {"warmup_s": 0, "duration_s": 600})
    (port,) = free_ports(1)
    run.begin("--web", str(port))
    run.until("progress", phase="measure")
    for path in ("swarm", "stop", "stats/reset"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data=b"user_count=9", timeout=10)
        assert refused.value.code == 405
        refused.value.close()
    seen, until = 0, time.monotonic() + 20
    while not seen and time.monotonic() < until:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats/requests", timeout=10) as answer:
            seen = json.load(answer)["stats"][-1]["num_requests"]
        time.sleep(0.2)
    assert seen > 0
    run.processes["master"].send_signal(signal.SIGINT)
    assert run.finish() == 0


ENCODING = """
import sys
from pathlib import Path
from loadproof_clients.kserve.tritonclient_grpc import TritonGrpc
from loadproof_clients.kserve.tritonclient_rest import TritonRest
from loadproof_clients.tensors import files
[payload] = files.read(Path(sys.argv[1]))
for client in (TritonGrpc, TritonRest):
    for sent, tensor in zip(client.encode(None, payload), payload, strict=True):
        content = sent._get_content() if hasattr(sent, "_get_content") else sent._get_binary_data()
        assert (sent.name(), sent.datatype(), tuple(sent.shape())) == tensor[:3]
        assert content == tensor.raw, tensor.datatype
"""


def test_payloads_of_every_datatype_are_sent_byte_for_byte(tmp_path: Path) -> None:
    payload = [Tensor("BYTES", "BYTES", (2,), b"\x03\0\0\0a\0\xff\0\0\0\0")]
    for datatype, dtype in DTYPES.items():
        values = os.urandom(6 * dtype.itemsize)
        if datatype != "BYTES":
            raw = bytes(v & 1 for v in values) if datatype == "BOOL" else values
            payload.append(Tensor(datatype, datatype, (2, 3), raw))
    files.write(tmp_path / "payload", [payload])
    subprocess.run([sys.executable, "-c", ENCODING, str(tmp_path / "payload")], cwd=ROOT, check=True)
