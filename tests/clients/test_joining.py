"""Workers that join by `loadproof worker` wait for a run, serve run after run, and are told why one is not taken."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.load_run import ROOT, TOKEN, Run
from tests.ports import free_ports

COMMAND = [sys.executable, "-c", "from loadproof.cli import main; main()", "worker"]
SHORT = {"warmup_s": 0, "duration_s": 1}
OWN = importlib.metadata.version("loadproof")
Join = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def join(request: pytest.FixtureRequest) -> Join:
    def start(port: int, *flags: str, **environment: str) -> subprocess.Popen[str]:
        command = [*COMMAND, "--master", f"127.0.0.1:{port}", *flags]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LOADPROOF_TOKEN": TOKEN, **environment},
        )
        request.addfinalizer(process.communicate)
        request.addfinalizer(process.kill)  # the last added is called first
        return process

    return start


def ended(worker: subprocess.Popen[str], code: int) -> str:
    """Waits for its end; what it said."""
    _, errors = worker.communicate(timeout=40)
    assert worker.returncode == code, errors
    return errors


def expecting(new_run: Callable[..., Run], workers: int, measure: dict[str, Any] = SHORT, **load: Any) -> Run:
    return new_run("rest", [], {"processes": workers, "expect_workers": workers, **load}, measure)


def files_of(process: subprocess.Popen[str]) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def test_workers_wait_for_the_master_serve_run_after_run_and_leave_after_the_last(
    new_run: Callable[..., Run], join: Join
) -> None:
    """The second has no place in the first run and waits for one that has; each run finds them as new."""
    (port,) = free_ports(1)
    workers = [join(port, "--wait", "60") for _ in range(2)]
    open_files: list[int] = []
    for places, last in ((1, []), (2, []), (2, ["--last"])):
        run = expecting(new_run, places, clients=2 * places).master("--port", str(port), *last)
        run.until("progress", phase="measure")
        open_files.append(max(map(files_of, workers)))
        assert run.finish() == 0
        saved = run.saved()["workers"]
        assert all(worker["complete"] and worker["records"] > 5 for worker in saved)
        assert len(saved) == places and {worker["pid"] for worker in saved} <= {worker.pid for worker in workers}
    assert max(open_files) - min(open_files) <= 1  # one that comes and goes; a file left by each run would be two
    said = [ended(worker, 0) for worker in workers]
    # the one that served the first run may be as quick as to meet its master again
    assert any("is one too many: this run takes 1" in text for text in said)


def test_a_worker_of_another_version_is_told_both_and_the_run_waits_for_a_good_one(
    new_run: Callable[..., Run], join: Join, tmp_path: Path
) -> None:
    other = tmp_path / "loadproof-0.0.7.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: loadproof\nVersion: 0.0.7\n")
    run = expecting(new_run, 1).master("--last")
    port = run.until("listening")["port"]
    old = join(port, PYTHONPATH=str(tmp_path))
    message = run.until("worker_refused")["message"]
    assert f"pid {old.pid} on " in message and f"is Loadproof 0.0.7, and the master is {OWN}" in message
    assert f"loadproof: {message}\n" in ended(old, 2)
    good = join(port)
    assert run.finish() == 0
    assert [worker["pid"] for worker in run.saved()["workers"]] == [good.pid]
    ended(good, 0)


def test_who_is_still_missing_after_the_time_out_is_told_under_the_plans_key(
    new_run: Callable[..., Run], join: Join
) -> None:
    """A worker of this machine takes no place of those from elsewhere; all are let go."""
    run = new_run("rest", [], {"processes": 3, "expect_workers": 2}, SHORT)
    run.begin("--workers-timeout", "20", "--host", "127.0.0.1")
    port = run.events[-1]["port"]
    here = join(port)
    message = run.until("error")["message"]
    assert message == (
        "load.expect_workers: only 1 of 2 workers came "
        f"(start the others with `loadproof worker --master 127.0.0.1:{port}`) within 20 s"
    )
    assert run.finish() == 1
    ended(here, 0)  # a run that cannot start ends its campaign


def test_a_worker_with_another_token_is_refused_and_who_waits_for_it_learns_why(
    new_run: Callable[..., Run], join: Join
) -> None:
    run = expecting(new_run, 1).master("--workers-timeout", "20")
    port = run.until("listening")["port"]
    said = ended(join(port, LOADPROOF_TOKEN="that of another campaign"), 2)
    assert said.endswith(f"loadproof: the master at 127.0.0.1:{port} has another token than this worker\n")
    message = run.until("error")["message"]
    assert message.endswith(" within 20 s; the master dropped 1 message that did not come from its workers")
    assert run.finish() == 1


def test_a_token_file_is_read_once_a_master_is_there_and_again_for_each_run(
    new_run: Callable[..., Run], join: Join, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    path = tmp_path / "token"
    worker = join(port, "--wait", "60", "--token-file", str(path), LOADPROOF_TOKEN="")
    time.sleep(1)
    for number in range(2):
        path.write_text(f"{TOKEN}\n" if number else f"  {TOKEN}")
        run = expecting(new_run, 1).master("--port", str(port), *(["--last"] if number else []))
        assert run.finish() == 0
    ended(worker, 0)


def test_a_token_file_that_is_not_there_is_told(new_run: Callable[..., Run], join: Join, tmp_path: Path) -> None:
    port = expecting(new_run, 1).master().until("listening")["port"]
    said = ended(join(port, "--token-file", str(tmp_path / "none")), 2)
    assert f"--token-file {tmp_path / 'none'}: No such file or directory; the controller writes it" in said


def test_where_no_master_comes_the_wait_ends_with_what_to_do(join: Join) -> None:
    (port,) = free_ports(1)
    began_s = time.monotonic()
    said = ended(join(port, "--wait", "1"), 1)
    assert time.monotonic() - began_s < 30
    assert f"no master listened at 127.0.0.1:{port} within 1 s" in said
    assert f"--listen 127.0.0.1:{port}" in said


def test_one_run_is_enough_for_a_worker_that_says_so(new_run: Callable[..., Run], join: Join) -> None:
    (port,) = free_ports(1)
    worker, waiting = join(port, "--once"), join(port)
    run = expecting(new_run, 2).master("--port", str(port))
    assert run.finish() == 0, (run.events, (run.place / "master.err").read_text())
    ended(worker, 0)
    waiting.send_signal(signal.SIGTERM)
    waiting.communicate(timeout=20)
    assert waiting.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)


def test_a_worker_that_is_told_to_stop_in_the_middle_delivers_and_the_run_says_so(
    new_run: Callable[..., Run], join: Join
) -> None:
    run = expecting(new_run, 2, {"warmup_s": 0, "duration_s": 4}).master()
    port = run.until("listening")["port"]
    workers = [join(port) for _ in range(2)]
    run.until("progress", phase="measure")
    workers[0].send_signal(signal.SIGTERM)
    assert run.finish() == 1
    ended(workers[0], 0)
    lost = [said for said in run.events if said["event"] == "worker_lost"]
    assert (
        len(lost) == 1 and f"(pid {workers[0].pid} on " in lost[0]["message"] and "told to stop" in lost[0]["message"]
    )
    assert run.events[-1] == {"event": "error", "message": lost[0]["message"]}
    assert all(worker["complete"] for worker in run.saved()["workers"])
