"""The whole pipeline as a user runs it: the real server, HAProxy and Locust, a real model, both protocols."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from controller.cli import main; main()"]
SHORT = ["--set", "measure.warmup_s=0.5", "--set", "measure.duration_s=2", "--set", "measure.drain_s=2"]


@dataclass
class Outcome:
    code: int
    stdout: str
    stderr: str
    directory: Path

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        return summary

    @property
    def run(self) -> dict[str, Any]:
        run: dict[str, Any] = self.summary["runs"][0]
        return run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository for this module: the catalogue's model is downloaded once."""
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))  # a server that this module shares
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    assert [child.cmdline() for child in left if child.status() != psutil.STATUS_ZOMBIE] == []


def loadproof(models: Path, out: Path, *arguments: str, plan: str = "plans/quick.toml") -> Outcome:
    command = [*COMMAND, "run", plan, "--models", str(models), "--out", str(out), *SHORT, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr, out)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_run_is_valid_and_its_three_witnesses_agree(models: Path, tmp_path: Path, protocol: str) -> None:
    done = loadproof(models, tmp_path / "out", "--set", f"load.protocol={protocol}")
    assert done.code == 0, done.stdout + done.stderr
    counts = done.run["requests"]
    assert counts["sent"] == counts["ok"] > 50
    assert counts["failed"] == counts["wrong"] == counts["unaccounted"] == 0
    assert done.run["reasons"] == [] and done.run["verdict"] == "VALID"
    seen = {name: witness["requests"] for name, witness in done.run["witnesses"].items()}
    assert seen["client"] == seen["balancer"] == seen["server"] >= counts["sent"]
    assert sum(done.run["breakdown_ms"].values()) == pytest.approx(done.run["latency_ms"]["mean"])
    _check_tables(done)
    _check_percentiles(done)
    assert "VALID" in done.stdout and "report.html" in done.stdout
    assert not (done.directory / "runs/001-quick/work").exists()


def _check_tables(done: Outcome) -> None:
    run = done.directory / done.run["directory"]
    requests, rows = pq.read_table(run / "requests.parquet"), pq.read_table(run / "balancer.parquet")
    assert sorted(requests["id"].to_pylist()) == sorted(rows["id"].to_pylist())
    assert set(requests["status"].to_pylist()) == {"ok"}
    assert all(requests["verified"].to_pylist()) and all(requests["correct"].to_pylist())
    assert set(requests["worker"].to_pylist()) == {1, 2}
    assert len(set(requests["client"].to_pylist())) == 4
    assert set(rows["termination"].to_pylist()) == {"--"} and set(rows["status"].to_pylist()) == {200}
    assert pq.read_table(run / "samples.parquet").num_rows > 0
    assert pq.read_table(run / "generator.parquet").num_rows > 0


def _check_percentiles(done: Outcome) -> None:
    """Nearest rank, from the records alone (sorted[ceil(p n) - 1])."""
    table = pq.read_table(done.directory / done.run["directory"] / "requests.parquet").to_pydict()
    rows = zip(table["status"], table["phase"], table["sent_ns"], table["received_ns"], strict=True)
    ordered = sorted((end - start) / 1e6 for status, phase, start, end in rows if (status, phase) == ("ok", "measure"))
    for name, share, least in (("p50", 0.5, 1), ("p90", 0.9, 64), ("p95", 0.95, 130), ("p99", 0.99, 662)):
        expected = ordered[ceil(share * len(ordered)) - 1] if len(ordered) >= least else None
        found = done.run["latency_ms"][name]
        assert found == (None if expected is None else pytest.approx(expected, rel=1e-12))
    assert done.run["latency_ms"]["max"] == pytest.approx(ordered[-1], rel=1e-12)


def test_a_sweep_runs_every_point_direct_and_through_the_balancer(models: Path, tmp_path: Path) -> None:
    done = loadproof(
        models, tmp_path / "out", "--set", 'sweep.load.via=["direct", "balancer"]', "--set", "measure.duration_s=1"
    )
    assert done.code == 0, done.stdout + done.stderr
    assert [run["spec"]["load"]["via"] for run in done.summary["runs"]] == ["direct", "balancer"]
    assert done.summary["runs"][0]["witnesses"]["balancer"] is None
    assert {run["verdict"] for run in done.summary["runs"]} == {"VALID"}


def test_a_worker_from_elsewhere_joins(models: Path, tmp_path: Path) -> None:
    from controller.launch.child import free_ports

    address = f"127.0.0.1:{free_ports(1)[0]}"
    with subprocess.Popen([*COMMAND, "worker", "--master", address], cwd=tmp_path, stderr=subprocess.DEVNULL) as worker:
        done = loadproof(models, tmp_path / "out", "--listen", address, "--set", "load.expect_workers=1")
        assert worker.wait(60) == 0
    assert done.code == 0, done.stdout + done.stderr
    assert done.run["verdict"] == "VALID"
    table = pq.read_table(done.directory / done.run["directory"] / "requests.parquet")
    assert set(table["worker"].to_pylist()) == {1, 2}


def test_a_broken_slo_is_exit_3(models: Path, tmp_path: Path) -> None:
    done = loadproof(models, tmp_path / "out", "--set", "slo.mean_ms=0.001", "--set", "load.via=direct")
    assert done.code == 3, done.stdout + done.stderr


def test_an_old_directory_renders_again_without_the_rest_of_the_tree(models: Path, tmp_path: Path) -> None:
    done = loadproof(models, tmp_path / "out", "--set", "load.via=direct", "--set", "measure.duration_s=1")
    before = (done.directory / "summary.json").read_text()
    for name in ("summary.json", "summary.csv", "report.html", "report.md"):
        (done.directory / name).unlink()
    subprocess.run([*COMMAND, "report", str(done.directory)], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert (done.directory / "summary.json").read_text() == before
    assert (done.directory / "report.html").stat().st_size > 1_000_000


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[tuple[str, str]]:
    """An external server: `loadproof-server` started by somebody else; its gRPC and REST addresses."""
    from controller import models as repository
    from controller.launch.child import free_ports

    model = repository.get("ocr-cls", models)
    grpc_port, rest_port = free_ports(2)
    flags = ["--model_name", "reader", "--model_path", str(model.directory), "--metrics_enable"]
    flags += ["--port", str(grpc_port), "--rest_port", str(rest_port)]
    process = subprocess.Popen([sys.executable, "-m", "server.main", *flags], cwd=ROOT, stderr=subprocess.DEVNULL)
    yield f"127.0.0.1:{grpc_port}", f"127.0.0.1:{rest_port}"
    process.terminate()
    assert process.wait(60) == 0


@pytest.mark.parametrize("metrics", [True, False])
def test_an_external_server_is_measured_as_it_is(
    server: tuple[str, str], models: Path, tmp_path: Path, metrics: bool
) -> None:
    plan = tmp_path / "external.toml"
    plan.write_text(
        f"""
        name = "external"
        [server]
        launch = "external"
        model = "reader"
        address = "{server[0]}"
        rest_address = "{server[1]}"
        {"" if metrics else 'metrics = "none"'}
        [load]
        shapes = {{ x = [1, 3, 48, 192] }}
        """
    )
    done = loadproof(models, tmp_path / "out", plan=str(plan))
    assert done.code == 0, done.stdout + done.stderr
    seen = done.run["witnesses"]
    assert seen["client"]["requests"] == seen["balancer"]["requests"] > 50
    assert (seen["server"]["requests"] == seen["client"]["requests"]) if metrics else seen["server"] is None
    assert any("consistency, not correctness" in note for note in done.run["notes"])
    table = pq.read_table(done.directory / done.run["directory"] / "requests.parquet").to_pydict()
    assert table["phase"].count("reference") == 32
    assert all(table["verified"][32:]) and all(table["correct"][32:])


def begin(models: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "run", "plans/quick.toml", "--models", str(models), "--out", str(out), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the run ended before it said {text!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_what_it_has_and_leaves_nothing(
    models: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with begin(models, tmp_path / "out", "--set", "measure.duration_s=60") as process:
        wait_for(process, "measuring")
        time.sleep(1)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    run = Outcome(130, output, errors, tmp_path / "out").run
    assert run["verdict"] == "INVALID"
    assert [reason["code"] for reason in run["reasons"]] == ["interrupted"]
    assert run["requests"]["ok"] > 0 and run["reconcile"]["differences"] == []
    assert (tmp_path / "out/report.html").exists()


@pytest.mark.parametrize(
    ("victim", "code"), [("server.main", "server_died"), ("haproxy", "balancer_died"), ("load.worker", "worker_died")]
)
def test_a_party_that_is_killed_makes_the_run_invalid_and_keeps_the_records(
    models: Path, tmp_path: Path, victim: str, code: str
) -> None:
    with begin(models, tmp_path / "out", "--set", "measure.duration_s=6", "--set", "measure.drain_s=1") as process:
        wait_for(process, "measuring")
        time.sleep(1)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(next(child.pid for child in children if victim in " ".join(child.cmdline())), signal.SIGKILL)
        output, errors = process.communicate(timeout=90)
    assert process.returncode == 4, output + errors
    run = Outcome(4, output, errors, tmp_path / "out").run
    assert code in [reason["code"] for reason in run["reasons"]]
    assert run["requests"]["ok"] > 0


def test_a_plan_with_mistakes_starts_nothing_and_is_exit_2(models: Path, tmp_path: Path) -> None:
    done = loadproof(models, tmp_path / "out", "--set", "load.clients=0", "--set", "load.protocol=soap")
    assert done.code == 2
    assert "load.clients: found 0" in done.stderr and 'load.protocol: found "soap"' in done.stderr
    assert not done.directory.exists()


def test_a_missing_model_is_one_line_with_the_cure(models: Path, tmp_path: Path) -> None:
    done = loadproof(models, tmp_path / "out", "--set", "server.model=ocr-clz")
    assert done.code == 1
    assert "did you mean ocr-cls?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_payload_that_cannot_be_made_is_told_by_its_key(models: Path, tmp_path: Path) -> None:
    done = loadproof(models, tmp_path / "out", "--set", "load.shapes={y = [1]}")
    assert done.code == 1
    assert "load.shapes" in done.stderr


def test_a_server_that_dies_at_start_is_told_with_the_end_of_its_log(models: Path, tmp_path: Path) -> None:
    done = loadproof(models, tmp_path / "out", "--set", "server.device=WARP")
    assert done.code == 1
    assert "loadproof-server exited with code" in done.stderr and "WARP" in done.stderr


def test_without_haproxy_there_is_one_line_with_the_cure(models: Path, tmp_path: Path) -> None:
    program = "from controller import environment; environment.haproxy_program = lambda: None\n"
    program += "from controller.cli import main; main()"
    command = [sys.executable, "-c", program, "run", "plans/quick.toml", "--models", str(models)]
    command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "HAProxy is not installed; apt-get install haproxy" in done.stderr
