"""Campaigns of several runs as a user has them: interrupted and gone on with, against the truth server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.truth.edge import highest_rate_rps
from tests.truth.session import LOADPROOF, ROOT, Outcome, finish, loadproof, plan, start_loadproof, truth_server

MEASURE = {"warmup_s": 0.5, "duration_s": 1.5, "drain_s": 1}
SWEEP = '[sweep]\n"load.clients" = [1, 2, 3]\n'


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [*LOADPROOF, "run", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def runs_of(outcome: Outcome) -> list[dict[str, Any]]:
    return list(json.loads((outcome.directory / "summary.json").read_text())["runs"])


def test_an_interrupted_campaign_goes_on_and_repeats_no_finished_run(tmp_path: Path) -> None:
    with (
        truth_server(tmp_path / "log", "--delay-ms", "5") as server,
        truth_server(tmp_path / "another.log", "--delay-ms", "5") as another,
    ):
        for name, its in (("cut", server), ("whole", another)):
            (tmp_path / f"{name}.toml").write_text(plan(its, {"processes": 1}, MEASURE) + SWEEP)
        whole = start(str(tmp_path / "whole.toml"), "--out", str(tmp_path / "whole"))
        cut = start(str(tmp_path / "cut.toml"), "--out", str(tmp_path / "cut"))
        deadline = time.monotonic() + 120
        while not list((tmp_path / "cut/runs").glob("002-*")):
            assert cut.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        cut.send_signal(signal.SIGINT)
        first = finish(cut, tmp_path / "cut")
        assert first.code == 130 and f"loadproof run --resume {tmp_path / 'cut'}" in first.output
        (kept,) = (tmp_path / "cut/runs").glob("001-*")
        before = (kept / "run.json").read_bytes()
        resumed = finish(start("--resume", str(tmp_path / "cut")), tmp_path / "cut")
        uninterrupted = finish(whole, tmp_path / "whole")
        again = start("--resume", str(tmp_path / "cut"))
        output, _ = again.communicate(timeout=60)
    assert (resumed.code, uninterrupted.code) == (0, 0), resumed.output
    assert (kept / "run.json").read_bytes() == before
    got, wanted = ([said_of(run) for run in runs_of(one)] for one in (resumed, uninterrupted))
    assert got == wanted and len(got) == 3
    assert all(run["requests"]["ok"] > 0 and run["verdict"] != "INVALID" for run in runs_of(resumed))
    ids = [row for run in runs_of(resumed) for row in ids_of(resumed, run)]
    assert len(ids) == len(set(ids))
    assert again.returncode == 1 and "nothing is left to do" in output


def said_of(run: dict[str, Any]) -> list[Any]:
    """Its names and spec, but for the address of its server."""
    server = {key: value for key, value in run["spec"]["server"].items() if "address" not in key}
    return [run["name"], run["directory"], run["repeat"], run["spec"] | {"server": server}]


def ids_of(outcome: Outcome, run: dict[str, Any]) -> list[str]:
    table = pq.read_table(outcome.directory / run["directory"] / "requests.parquet", columns=["id"])
    return list(table["id"].to_pylist())


def test_a_campaign_that_is_being_measured_is_not_resumed(tmp_path: Path) -> None:
    """Its run's directory was removed under it."""
    with truth_server(tmp_path / "log", "--delay-ms", "5") as server:
        process = start_loadproof(server, tmp_path / "out", {}, MEASURE | {"duration_s": 4})
        wait_for(process, "measuring")
        comers = [
            start("--resume", str(tmp_path / "out")),
            start(str(tmp_path / "out.toml"), "--out", f"{tmp_path}/out"),
        ]
        told = [comer.communicate(timeout=60)[0] for comer in comers]
        outcome = finish(process, tmp_path / "out")
    assert [comer.returncode for comer in comers] == [1, 1]
    assert all(f"process {process.pid} on {socket.gethostname()}, since 20" in said for said in told), told
    assert outcome.code == 0 and outcome.run["requests"]["ok"] > 0, outcome.output


def test_a_pipe_whose_reader_leaves_does_not_end_the_campaign(tmp_path: Path) -> None:
    with truth_server(tmp_path / "log", "--delay-ms", "5") as server:
        path = tmp_path / "p.toml"
        path.write_text(plan(server, {}, MEASURE))
        command = [*LOADPROOF, "run", str(path), "--out", str(tmp_path / "out")]
        script = '"$@" 2>&1 | head -1; exit ${PIPESTATUS[0]}'
        done = subprocess.run(
            ["bash", "-c", script, "bash", *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1 and done.stderr == "", done
    (run,) = runs_of(Outcome(0, "", tmp_path / "out"))
    assert run["requests"]["ok"] > 0 and run["verdict"] != "INVALID"
    (facts,) = (tmp_path / "out/runs").glob("*/run.json")
    assert json.loads(facts.read_text())["end"]["finished"] is True


def test_a_campaign_whose_shell_ignores_ctrl_c_ends_well_on_sigterm(tmp_path: Path) -> None:
    """As one that a script starts in its background."""
    with truth_server(tmp_path / "log", "--delay-ms", "5") as server:
        ignoring = ["bash", "-c", 'trap "" INT; exec "$@"', "bash"]
        process = start_loadproof(server, tmp_path / "out", {}, MEASURE | {"duration_s": 60}, before=ignoring)
        wait_for(process, "measuring")
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        outcome = finish(process, tmp_path / "out")
    assert outcome.code == 130 and outcome.run["requests"]["ok"] > 0
    assert "interrupted" in [reason["code"] for reason in outcome.run["reasons"]]


SLOW = """
import time
from loadproof import rundir
write = rundir.write_requests
def slowly(*arguments):
    print("writing", flush=True)
    time.sleep(5)
    write(*arguments)
rundir.write_requests = slowly
from loadproof.cli import main; main()
"""


def test_ctrl_c_twice_while_collecting_ends_it_soon(tmp_path: Path) -> None:
    with truth_server(tmp_path / "log", "--delay-ms", "5") as server:
        path = tmp_path / "p.toml"
        path.write_text(plan(server, {}, MEASURE))
        command = [sys.executable, "-c", SLOW, "run", str(path), "--out", str(tmp_path / "out")]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(process, "writing")
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in output, output
        (facts,) = (tmp_path / "out/runs").glob("*/run.json")
        assert json.loads(facts.read_text())["end"] == {"finished": False, "reason": "the user stopped it"}
        resumed = finish(start("--resume", str(tmp_path / "out")), tmp_path / "out")
    assert resumed.code == 0 and resumed.run["requests"]["ok"] > 0, resumed.output


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended before it said {text!r}")


def test_a_search_finds_the_highest_rate_that_a_server_keeps_up_with(tmp_path: Path) -> None:
    """The truth server has one place and takes 20 ms, with 10 % of noise: 50 a second, by its own log.

    Other programs on the machine only ever let it find less. (Within 5 % is scripts/prove's, on a quiet machine.)
    """
    with truth_server(tmp_path / "log", "--delay-ms", "20", "--queue", "--noise", "0.1") as server:
        load = {"arrivals": "constant", "clients": 4, "transport": "wire"}
        search = {"key": "load.rate_rps", "low": 40, "tolerance": 0.2, "tries": 1}
        measure = {"warmup_s": 0.5, "duration_s": 4, "drain_s": 1}
        outcome = loadproof(server, tmp_path / "out", load, measure, {"slo": {"p95_ms": 150}, "search": search})
        true_rps = highest_rate_rps("constant", server.service_s(), 0.95, 0.15)
    found = outcome.summary["search"]
    assert outcome.code == 0, outcome.output
    assert found["ended"] and 0.6 * true_rps <= found["highest"] <= 1.05 * true_rps, (found, true_rps)
    assert found["fails_at"] > found["highest"]
    assert f"highest rate that keeps p95 within 150 ms is {found['highest']:g} requests/s" in outcome.output
    assert [run["name"] for run in runs_of(outcome)][:2] == ["rate_rps=40", "rate_rps=80"]
    page = (tmp_path / "out/report.html").read_text()
    assert "What the search found" in page
    runs = {run["name"]: run for run in runs_of(outcome)}
    over = runs["rate_rps=80"]  # 30 more a second than it can serve: that shows long before the window's end
    assert over["cut_short"]["metric"] == "p95_ms" and over["window"]["duration_s"] < 3.5
    assert over["requests"]["unaccounted"] == 0 and not over["reconcile"]["differences"]
    assert "interrupted" not in [reason["code"] for reason in over["reasons"]]
    assert any(note.startswith("Cut short on purpose") for note in over["notes"])
    kept = [name for level in found["levels"] if level["holds"] for name in level["runs"]]
    assert all(runs[name]["cut_short"] is None and runs[name]["window"]["duration_s"] == 4 for name in kept)
    assert found["seconds"] < 4.5 * len(runs)
