"""The command line: what it says without starting anything."""

from __future__ import annotations

import io
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from loadproof import doctor
from tests.controller.compare import campaigns

ROOT = Path(__file__).parents[2]


def loadproof(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from loadproof.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path: Path) -> None:
    done = loadproof(
        "run", str(ROOT / "plans/quick.toml"), "--dry-run", "--set", "sweep.load.clients=[1,4]", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "quick: 2 runs, 24 s of load" in done.stdout
    assert "clients=4: grpc via balancer, 4 clients in 2 processes" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_output_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    done = loadproof("run", "plans/quick.toml", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "has something in it already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_busy_web_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = loadproof("run", "plans/quick.toml", "--out", str(tmp_path / "out"), "--web", port)
    assert done.returncode == 1
    assert f"--web {port}: 127.0.0.1:{port} cannot be had" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_the_user_typed_is_told_as_it_is() -> None:
    done = loadproof("model", "get", "[/]")
    assert done.returncode == 1
    assert done.stderr.startswith("error: [/]: no such model: allowed: ocr-cls")


def test_an_output_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = loadproof("run", "plans/quick.toml", "--out", str(tmp_path / "file/out"), "--models", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/file/out: Not a directory")
    assert len(done.stderr.splitlines()) == 1


def test_a_model_that_cannot_be_had_leaves_no_output_directory(tmp_path: Path) -> None:
    done = loadproof("run", "plans/quick.toml", "--set", "server.model=none", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "error: none: no such model" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_closed_terminal_saves_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "nowhere.toml").write_text(
        'name = "nowhere"\nload.protocol = "rest"\n'
        '[server]\nmodel = "m"\nlaunch = "external"\nrest_address = "127.0.0.1:1"\n'
    )
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); from loadproof.cli import main; main()"
    command = [sys.executable, "-c", program, "run", str(tmp_path / "nowhere.toml"), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "nowhere: finding the server\n"
        process.send_signal(signal.SIGHUP)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"interrupted: everything was stopped; what was measured is in {tmp_path}/out" in said
    assert json.loads((tmp_path / "out/summary.json").read_text())["runs"][0]["verdict"] == "INVALID"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.3, 0.5, 0.8])
def test_a_signal_during_the_imports_ends_it_without_a_word(tmp_path: Path, number: int, after_s: float) -> None:
    """The first line is said when main is entered; from then on every moment of the imports is covered."""
    program = "import loadproof.cli as cli, sys; print('begun', flush=True); cli.main()"
    command = [sys.executable, "-c", program, "run", "plans/sweep.toml", "--dry-run", "--set", "sweep.load.seed=[1]"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(after_s)
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode in (130, 0) and said == ""  # 0: it was done before


@pytest.mark.parametrize("limit_mb", [150, 200, 300, 400])
def test_where_no_memory_is_left_that_is_told_in_a_line(tmp_path: Path, limit_mb: int) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('name = "t"\n[server]\nmodel = "m"\nlaunch = "external"\naddress = "127.0.0.1:1"\n')
    command = [sys.executable, "-c", "from loadproof.cli import main; main()", "run", str(plan), "--out"]
    done = subprocess.run(
        ["bash", "-c", f'ulimit -v {limit_mb * 1000}; exec "$@"', "bash", *command, str(tmp_path / "out")],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin:/usr/sbin", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "memory" in done.stderr.lower() and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_full_disk_is_told_with_the_path(tmp_path: Path) -> None:
    """A limit to the size of files is a disk that fills up; the report of a run is larger than it."""
    old = Path(shutil.copytree(ROOT / "tests/data/0.1.0/run", tmp_path / "old"))
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
    command = [sys.executable, "-c", program + "from loadproof.cli import main; main()", "report", str(old)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert done.returncode == 1 and done.stderr.startswith(f"error: {old}/report.html: File too large"), done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        "load.shapes=" + "[" * 3000 + "]" * 3000,
        "load.shapes=" + "[" * 300 + "]" * 300,
        "load.shapes={" + ".".join("a" * 50_000) + "=1}",
        "load." + ".".join("a" * 50_000) + "=1",
        "load." + "x" * 100_000 + "=1",
        "sweep.load.shapes=" + "[{x=" * 200 + "1" + "}]" * 200,
    ],
    ids=lambda setting: setting[:24],
)
def test_a_setting_without_measure_is_a_mistake_that_is_told_soon(setting: str) -> None:
    began_s = time.monotonic()
    done = loadproof("run", "plans/quick.toml", "--dry-run", "--set", setting)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(done.stderr) < 2000 and time.monotonic() - began_s < 15


@pytest.mark.parametrize("master", [":5557", "host:port", "::1"])
def test_a_master_that_is_no_address_is_bad_usage(master: str) -> None:
    done = loadproof("worker", "--master", master)
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr


def test_workers_from_elsewhere_need_an_address_to_come_to(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = loadproof("run", "plans/quick.toml", "--out", out, "--set", "load.expect_workers=1")
    assert done.returncode == 1 and "need --listen HOST:PORT" in done.stderr
    for address in ("nowhere", "0.0.0.0:5557", "127.0.0.1:99999"):
        done = loadproof("run", "plans/quick.toml", "--out", out, "--listen", address)
        assert done.returncode == 2 and "--listen" in done.stderr
    assert not (tmp_path / "out").exists()


def test_unknown_options_and_commands_are_exit_2() -> None:
    assert loadproof("run", "plans/quick.toml", "--fast").returncode == 2
    assert loadproof("fly").returncode == 2


def test_a_directory_that_is_no_campaign_is_one_clear_line(tmp_path: Path) -> None:
    done = loadproof("report", str(tmp_path))
    assert done.returncode == 1
    assert "no campaign.json there" in done.stderr and "Traceback" not in done.stderr


def test_compare_writes_its_files_and_a_broken_gate_is_exit_3(tmp_path: Path) -> None:
    base, new = campaigns.repeats(tmp_path / "base", 1), campaigns.repeats(tmp_path / "new", 21, slower=1.1)
    files = ["--markdown", str(tmp_path / "m.md"), "--junit", str(tmp_path / "j.xml")]
    done = loadproof("compare", str(base), str(new), "--gate", "throughput_rps>=-3%", *files)
    assert done.returncode == 3, done.stderr
    assert "worse  throughput_rps" in done.stdout and "broken  throughput_rps>=-3%" in done.stdout
    assert "**worse**" in (tmp_path / "m.md").read_text() and "<failure" in (tmp_path / "j.xml").read_text()


def test_what_cannot_be_compared_is_exit_2(tmp_path: Path) -> None:
    base = str(campaigns.repeats(tmp_path / "base", 1, count=1))
    other = str(campaigns.repeats(tmp_path / "other", 1, count=1, clients=2))
    for arguments, said in (
        ((base,), "give two directories or more"),
        ((base, base, "--gate", "p99<=5%"), "did you mean p99_ms?"),
        ((base, other), "--across load.clients compares them all the same"),
    ):
        done = loadproof("compare", *arguments)
        assert done.returncode == 2 and said in " ".join(done.stderr.split()), done.stderr


def test_history_shows_every_campaign_below_a_directory(tmp_path: Path) -> None:
    campaigns.repeats(tmp_path / "a", 1, count=1)
    campaigns.repeats(tmp_path / "b", 2, count=1)
    done = loadproof("history", str(tmp_path), "--metric", "p50_ms")
    assert done.returncode == 0 and done.stdout.count("2026-09-21 13:46") == 2, done.stderr


def test_the_schema_is_that_of_the_plan_unless_another_is_asked_for() -> None:
    plan = loadproof("schema").stdout
    assert {"server", "load", "measure"} <= set(json.loads(plan)["properties"]) and loadproof(
        "schema", "plan"
    ).stdout == plan
    summary = json.loads(loadproof("schema", "summary").stdout)
    assert {"schema", "campaign", "runs"} <= set(summary["properties"])
    assert summary["$defs"]["RunSummary"]["properties"]["throughput_rps"]["description"].startswith("good answers")


def test_a_schema_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    done = loadproof("schema", "nonsense")
    assert done.returncode == 2 and done.stdout == ""
    assert all(f"'{name}'" in done.stderr for name in ("nonsense", "plan", "summary"))


def test_the_model_list_names_the_catalogue(tmp_path: Path) -> None:
    listed = loadproof("model", "list", cwd=tmp_path).stdout
    assert all(name in listed for name in ("ocr-cls", "ocr-det", "ocr-rec", "magika", "resnet50"))


def test_the_doctor_finds_nothing_lacking_where_the_tests_run() -> None:
    done = loadproof("doctor")
    assert done.returncode == 0, done.stdout
    assert "HAProxy" in done.stdout


def test_what_the_doctor_finds_is_told_with_its_cure_below_it_and_what_follows() -> None:
    said = "none: how near runs come to this machine's own limits is not known"
    findings = [
        doctor.Finding("note", "calibration", said, "loadproof doctor --calibrate"),
        doctor.Finding("lacks", "HAProxy", "not installed", "apt-get install haproxy"),
    ]
    out = io.StringIO()
    doctor.show(findings, Console(file=out, width=60))
    assert out.getvalue().splitlines() == [
        "note   calibration   none: how near runs come to this",
        "                     machine's own limits is not known",
        "                     cure: loadproof doctor --calibrate",
        "lacks  HAProxy       not installed",
        "                     cure: apt-get install haproxy",
        "",
        "A campaign will not run without: HAProxy.",
    ]
