"""Strangers at the master's port change nothing, whatever they send; a worker that cannot be believed is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof_clients.load import seal
from loadproof_clients.load.authentication import MESSAGES_AT_ONCE, Authenticator, Dropped, Excluded
from loadproof_clients.load.plausible import Plausible
from loadproof_clients.load.seal import NONCE_BYTES, TO_MASTER, TO_WORKER, Forged, Seal
from loadproof_clients.records import CONNECTION, LOST, PHASES, RECORD, UNKNOWN_NS, UNSENT
from loadproof_clients.spec import Load, LoadSpec, Measure
from tests.clients.load_run import ROOT, Records, Run
from tests.clients.stranger import everything

TWO = {"clients": 4, "processes": 2}
MEASURE = {"warmup_s": 0, "duration_s": 3}
SECRET = b"a token that only the tests know"
NONCE = bytes(NONCE_BYTES)
FAULTS = ["phase", "status", "payload", "client", "verified", "time", "doubled", "torn", "flood"]
Visit = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def visit() -> Iterator[Visit]:
    """Starts a stranger, and returns once it has sent all."""
    strangers = []

    def start(port: int, *flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.clients.stranger", "--port", str(port), *flags]
        strangers.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert strangers[-1].stdout is not None and strangers[-1].stdout.readline()
        return strangers[-1]

    yield start
    for stranger in strangers:
        stranger.communicate()


def unchanged(run: Run) -> list[str]:
    """That the run is as without a stranger; the notes that it leaves."""
    assert run.finish() == 0, (run.events, (run.place / "master.err").read_text())
    assert not [said for said in run.events if said["event"] in ("error", "worker_lost", "worker_refused")]
    assert [said["ready"] for said in run.events if said["event"] == "workers"] == [1, 2]
    saved = run.saved()
    pids = {process.pid for name, process in run.processes.items() if name.startswith("worker")}
    assert {worker["pid"] for worker in saved["workers"]} == pids and len(pids) == 2
    assert all(worker["complete"] for worker in saved["workers"])
    assert run.by_id().keys() == run.log().keys() and len(run.log()) > 50
    assert not list(run.out.glob("*.spool"))
    return list(saved["notes"])


def test_what_strangers_send_is_dropped_counted_and_told(new_run: Callable[..., Run], visit: Visit) -> None:
    """One that comes before the workers and one in the middle; each dies, and what it called its spool stays."""
    run = new_run("rest", ["--delay-ms", "4"], TWO, MEASURE)
    theirs = run.place / "theirs"
    theirs.write_bytes(bytes(10 * RECORD.itemsize))
    run.begin(workers=1)
    port = run.events[-1]["port"]
    visit(port, "--spool", str(theirs)).kill()
    run.start("worker1", ["-m", "loadproof_clients.load.worker", "--port", str(port), "--spool", str(run.out)])
    run.until("progress", phase="measure")
    visit(port, "--spool", str(theirs)).kill()
    sent = 2 * len(everything("s", theirs))  # under each of its names
    [note] = unchanged(run)
    assert note == f"The master dropped {2 * sent} messages that did not come from its workers."
    assert theirs.stat().st_size == 10 * RECORD.itemsize


def test_a_flood_and_a_thousand_silent_connections_change_nothing(new_run: Callable[..., Run], visit: Visit) -> None:
    run = new_run("rest", ["--delay-ms", "4"], TWO, MEASURE).master()
    port = run.until("listening")["port"]
    visit(port, "--sockets", "1000", "--flood", "500")
    for number in range(2):
        worker = ["-m", "loadproof_clients.load.worker", "--port", str(port), "--spool", str(run.out)]
        run.start(f"worker{number}", worker)
    run.until("progress", phase="measure")
    visit(port, "--flood", "500")
    [note] = unchanged(run)
    assert note.startswith("The master dropped ")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_whose_records_cannot_be_is_lost_and_the_other_goes_on(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    run = new_run("rest", ["--delay-ms", "4"], TWO, MEASURE).begin()
    monkeypatch.setenv("FAULT", fault)
    bad = ["-m", "tests.clients.bad_worker", "--port", str(run.events[-1]["port"]), "--spool", str(run.out)]
    number = run.start("bad", bad).pid
    lost = run.until("worker_lost")
    assert run.finish() == 1
    good, other = sorted(run.saved()["workers"], key=lambda worker: int(worker["pid"] == number))
    assert good["complete"] and not other["complete"] and lost["worker"] == other["worker"]
    why = "sent more messages" if fault == "flood" else "sent records that cannot be"
    assert f"worker {other['worker']} {why}" in lost["message"]
    assert run.events[-1] == {"event": "error", "message": lost["message"]}
    assert len(run.by_id()) == good["records"] + other["records"]  # what the other's spool has is good
    assert run.by_id().keys() <= run.log().keys()


@pytest.mark.parametrize("fault", ["hello", "shapes"])
def test_what_a_worker_says_wrong_is_dropped_counted_and_told(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    run = new_run("rest", ["--delay-ms", "4"], TWO, MEASURE).begin()
    monkeypatch.setenv("FAULT", fault)
    run.start(
        "worker-bad", ["-m", "tests.clients.bad_worker", "--port", str(run.events[-1]["port"]), "--spool", str(run.out)]
    )
    [note] = unchanged(run)
    assert note.startswith(
        f"The master dropped {'1 message' if fault == 'hello' else '2 messages'} of its workers that"
    )


def test_more_clients_than_there_are_end_the_run_before_it_begins(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "clients")
    run = new_run("rest", [], {"clients": 4}, MEASURE).begin(program="tests.clients.bad_worker")
    message = run.until("error")["message"]
    assert message == "worker 1, loadproof-armed: 1,000,000,000 clients are not its share of 4"
    assert run.finish() == 1


def test_a_sealed_frame_opens_once_and_only_where_it_was_meant_to() -> None:
    frame = Seal(SECRET, NONCE, b"w", TO_MASTER).seal(b"body")
    opener = Seal(SECRET, NONCE, b"w", TO_MASTER)
    assert opener.open(frame) == b"body"
    others = [Seal(b"another", NONCE, b"w", TO_MASTER), Seal(SECRET, bytes(15) + b"x", b"w", TO_MASTER)]
    others += [Seal(SECRET, NONCE, b"v", TO_MASTER), Seal(SECRET, NONCE, b"w", TO_WORKER), opener]
    for other in others:
        with pytest.raises(Forged):
            other.open(frame)
    for place in range(len(frame)):
        altered = bytearray(frame)
        altered[place] ^= 1
        with pytest.raises(Forged):
            Seal(SECRET, NONCE, b"w", TO_MASTER).open(bytes(altered))
    for end in range(len(frame)):
        with pytest.raises(Forged):
            Seal(SECRET, NONCE, b"w", TO_MASTER).open(frame[:end])


def test_master_and_worker_find_out_whether_they_have_the_same_token() -> None:
    authenticator, asked = Authenticator(SECRET), seal.fresh_nonce()
    answer, has_token = authenticator.answer(b"w", seal.ask(SECRET, b"w", asked))
    assert has_token
    worker = Seal(SECRET, seal.read_tell(SECRET, b"w", asked, answer), b"w", TO_MASTER)
    frame = worker.seal(b"hello")
    assert authenticator.verified(b"w", frame) == b"hello"
    with pytest.raises(Forged):  # what was recorded and is sent again to this master, or the next run's
        authenticator.verified(b"w", frame)
    with pytest.raises(Forged):
        Authenticator(SECRET).verified(b"w", frame)
    answer, has_token = authenticator.answer(b"v", seal.ask(b"another", b"v", asked))
    assert not has_token
    with pytest.raises(Forged):
        seal.read_tell(b"another", b"v", asked, answer)


def test_strangers_leave_nothing_in_the_masters_memory() -> None:
    authenticator = Authenticator(SECRET)
    for number in range(100):
        with pytest.raises(Forged):
            authenticator.verified(b"%d" % number, Seal(b"another", NONCE, b"%d" % number, TO_MASTER).seal(b""))
    assert not authenticator._in and not authenticator._out


def test_a_worker_that_sends_too_much_is_kept_out() -> None:
    authenticator, floods = Authenticator(SECRET), list[str]()
    authenticator.on_flood = floods.append
    answer, _ = authenticator.answer(b"w", seal.ask(SECRET, b"w", NONCE))
    worker = Seal(SECRET, seal.read_tell(SECRET, b"w", NONCE, answer), b"w", TO_MASTER)
    with pytest.raises(Excluded):
        for _ in range(3 * MESSAGES_AT_ONCE):
            authenticator.verified(b"w", worker.seal(b""))
    with pytest.raises(Excluded):
        authenticator.verified(b"w", worker.seal(b""))
    assert floods == ["w"]


def test_the_notes_count_and_stay_short() -> None:
    dropped = Dropped()
    assert dropped.notes() == []
    dropped.stranger()
    for number in range(1000):
        dropped.bad(f"fault {number}")
    strangers, workers = dropped.notes()
    assert strangers == "The master dropped 1 message that did not come from its workers."
    assert workers.startswith("The master dropped 1,000 messages of its workers") and len(workers) < 300


def rows(**changes: Any) -> Records:
    """Two of a closed loop's rows, the second changed."""
    found = np.zeros(2, RECORD)
    found["first_byte_ns"], found["received_ns"], found["sequence"] = UNKNOWN_NS, 5, (0, 1)
    found["phase"], found["client"] = PHASES.index("measure"), 2
    for name, value in changes.items():
        found[name][1] = value
    return found


def fault(found: Records, plausible: Plausible | None = None) -> str | None:
    spec = LoadSpec(run="r", url="h:1", model="m", load=Load(clients=4, payloads=3), measure=Measure())
    return (plausible or Plausible(spec)).fault(found.tobytes(), first_client=2, clients=2, now_ns=10**9)


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": 0},
        {"phase": 5},
        {"status": LOST + 1},
        {"payload": 3},
        {"client": 1},
        {"client": 4},
        {"correct": True},
        {"planned_ns": -1},
        {"planned_ns": 1},
        {"sent_ns": 6},
        {"first_byte_ns": 6},
        {"received_ns": 12 * 10**9},
        {"sequence": 0},
        {"sequence": 2**31},
    ],
    ids=json.dumps,
)
def test_a_row_that_the_load_cannot_have_made_is_found(changes: dict[str, Any]) -> None:
    assert fault(rows(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"status": 16},
        {"status": 429},
        {"status": CONNECTION, "received_ns": 0},
        {"status": UNSENT},
        {"first_byte_ns": 3, "verified": True, "correct": True},
        {"sequence": 40_000},
    ],
    ids=json.dumps,
)
def test_a_row_that_the_load_may_have_made_is_taken(changes: dict[str, Any]) -> None:
    assert fault(rows(**changes)) is None


def test_a_boolean_is_one() -> None:
    raw = bytearray(rows().tobytes())
    raw[-2] = 2
    assert fault(np.frombuffer(bytes(raw), RECORD))


def test_a_request_of_an_earlier_piece_does_not_come_again() -> None:
    spec = LoadSpec(run="r", url="h:1", model="m", load=Load(clients=4, payloads=3), measure=Measure())
    plausible = Plausible(spec)
    assert fault(rows(), plausible) is None
    assert fault(rows(sequence=2)[1:], plausible) is None
    assert fault(rows()[1:], plausible) == "a request came twice"


def test_a_program_of_the_load_without_a_token_ends_at_once(tmp_path: Path) -> None:
    for token in ("", "short"):
        command = [sys.executable, "-m", "loadproof_clients.load.worker", "--port", "1", "--spool", str(tmp_path)]
        ended = subprocess.run(
            command,
            cwd=ROOT,
            input=f"{token}\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "LOADPROOF_TOKEN": "x" * 16},
        )
        assert ended.returncode == 2 and "a token has 16 to 1024 characters" in ended.stderr
