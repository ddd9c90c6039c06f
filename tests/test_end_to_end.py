"""The whole pipeline as a user runs it: the real server, HAProxy and Locust, a real model, both protocols."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
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
COMMAND = [sys.executable, "-c", "from loadproof.cli import main; main()"]
SHORT = ["--set", "measure.warmup_s=0.5", "--set", "measure.duration_s=2", "--set", "measure.drain_s=2"]


# What other programs on the machine that runs these tests may do to a run: it is right to tell of it.
DISTURBED = {"other_load", "cpu_stolen", "shared_cores", "started_apart", "generator_saturated", "cold_start"}


def codes(run: dict[str, Any]) -> set[str]:
    return {reason["code"] for reason in run["reasons"]}


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
    assert done.run["verdict"] == ("FLAGGED" if done.run["reasons"] else "VALID")
    assert codes(done.run) <= DISTURBED
    seen = {name: witness["requests"] for name, witness in done.run["witnesses"].items()}
    assert seen["client"] == seen["balancer"] == seen["server"] >= counts["sent"]
    assert sum(done.run["breakdown_ms"].values()) == pytest.approx(done.run["latency_ms"]["mean"])
    _check_tables(done)
    _check_percentiles(done)
    assert done.run["verdict"] in done.stdout and "report.html" in done.stdout
    assert not (done.directory / "runs/001-quick/work").exists()


def _check_tables(done: Outcome) -> None:
    run = done.directory / done.run["directory"]
    requests, rows = pq.read_table(run / "requests.parquet"), pq.read_table(run / "balancer.parquet")
    assert sorted(requests["id"].to_pylist()) == sorted(rows["id"].to_pylist())
    assert set(requests["status"].to_pylist()) == {"ok"}
    audit = requests["phase"].to_numpy() == "audit"
    assert (
        audit.sum() == 64
        and all(requests["verified"].to_numpy()[~audit])
        and all(requests["correct"].to_numpy()[~audit])
    )
    assert set(requests["worker"].to_numpy()[~audit]) == {1, 2}
    assert len(set(requests["client"].to_numpy()[~audit])) == 4
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
        models, tmp_path / "out", "--set", 'sweep.load.via=["direct", "balancer"]', "--set", "measure.duration_s=2"
    )
    assert done.code == 0, done.stdout + done.stderr
    assert [run["spec"]["load"]["via"] for run in done.summary["runs"]] == ["direct", "balancer"]
    assert done.summary["runs"][0]["witnesses"]["balancer"] is None
    assert all(codes(run) <= DISTURBED for run in done.summary["runs"])


def test_a_worker_from_elsewhere_joins(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.ports import free_ports

    address = f"127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("LOADPROOF_TOKEN", "a token that only the tests know")
    with subprocess.Popen([*COMMAND, "worker", "--master", address], cwd=tmp_path, stderr=subprocess.DEVNULL) as worker:
        done = loadproof(models, tmp_path / "out", "--listen", address, "--set", "load.expect_workers=1")
        assert worker.wait(60) == 0
    assert done.code == 0, done.stdout + done.stderr
    assert codes(done.run) <= DISTURBED
    table = pq.read_table(done.directory / done.run["directory"] / "requests.parquet")
    assert set(table["worker"].to_pylist()) == {0, 1, 2}  # 0: who took the audit


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
    from loadproof import models as repository
    from tests.ports import free_ports

    model = repository.get("ocr-cls", models)
    grpc_port, rest_port = free_ports(2)
    flags = ["--model_name", "reader", "--model_path", str(model.directory), "--metrics_enable"]
    flags += ["--port", str(grpc_port), "--rest_port", str(rest_port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "loadproof_server.main", *flags], cwd=ROOT, stderr=subprocess.DEVNULL
    )
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
    assert (table["phase"].count("audit"), table["phase"].count("reference")) == (64, 32)
    assert all(table["verified"][96:]) and all(table["correct"][96:])


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
    assert "interrupted" in codes(run) <= {"interrupted", *DISTURBED}
    assert run["requests"]["ok"] > 0 and run["reconcile"]["differences"] == []
    assert (tmp_path / "out/report.html").exists()


@pytest.mark.parametrize(("victim", "code"), [("loadproof_server.main", "server_died"), ("haproxy", "balancer_died")])
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
    program = "from loadproof import environment; environment.haproxy_program = lambda: None\n"
    program += "from loadproof.cli import main; main()"
    command = [sys.executable, "-c", program, "run", "plans/quick.toml", "--models", str(models)]
    command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "HAProxy is not installed; apt-get install haproxy" in done.stderr


def test_a_tuning_chooses_settings_of_the_real_server_and_tells_the_best_first(models: Path, tmp_path: Path) -> None:
    """Every combination of two streams and two batches is a neighbour or a neighbour's; the best is measured twice."""
    plan = tmp_path / "tune.toml"
    wanted = "[slo]\np90_ms = 2000\n[tune]\nstreams = [1, 2]\nbatch = [1, 4]\nruns_max = 6\n"
    load = '[server]\nmodel = "ocr-cls"\n[load]\ntransport = "wire"\nclients = 4\n'
    plan.write_text(f'name = "tune"\n{load}{wanted}')
    done = loadproof(models, tmp_path / "out", plan=str(plan))
    assert done.code == 0, done.stdout + done.stderr
    summary = done.summary
    found, spot = summary["tune"], summary["sweet_spot"]
    assert found["ended"] and 3 <= found["measured"] <= 4 and found["runs"] == len(summary["runs"]) <= 6
    best = next(one for one in spot["configurations"] if one["name"] == spot["best"])
    assert len(best["runs"]) == 2 and found["finalists"][0]["name"] == spot["best"]
    assert done.stdout.startswith("Sweet spot: ") and f"{found['measured']} of 4 combinations" in done.stdout
    for run in summary["runs"]:  # the batch reached the server: every answer was compared with OpenVINO's own
        assert run["verdict"] != "INVALID" and run["requests"]["wrong"] == 0
        assert run["spec"]["load"]["shapes"]["x"][0] == run["spec"]["load"]["batch"]
    assert {run["spec"]["load"]["batch"] for run in summary["runs"]} == {1, 4}
    assert "What the tuning found" in (tmp_path / "out/report.html").read_text()


@contextlib.contextmanager
def powercap(root: Path, watts: float) -> Iterator[Path]:
    """The kernel's tree of one package whose counter goes on as it would under `watts`, and begins again at 100 J."""
    zone, stopped = root / "intel-rapl:0", threading.Event()
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("100000000\n")

    def count() -> None:
        begun = time.monotonic()
        while not stopped.is_set():
            (root / "next").write_text(f"{round((time.monotonic() - begun) * watts * 1e6) % 100_000_000}\n")
            os.replace(root / "next", zone / "energy_uj")
            time.sleep(0.005)

    thread = threading.Thread(target=count)
    thread.start()
    yield root
    stopped.set()
    thread.join()


def test_ceiling_money_and_energy_stand_beside_what_was_served(models: Path, tmp_path: Path) -> None:
    """benchmark_app runs the same model with the same streams, batch and precision, and the run has its ladder."""
    settings = ["server.ceiling=true", "server.streams=2", "server.precision=f32", "load.batch=2"]
    settings += ["cost.currency=EUR", "cost.per_hour=0.36", "power.source=rapl", "power.idle_s=1"]
    with powercap(tmp_path / "powercap", watts=80) as root:
        settings += [f"power.root={root}"]
        done = loadproof(models, tmp_path / "out", *(word for one in settings for word in ("--set", one)))
    assert done.code == 0, done.stdout + done.stderr
    energy, ips = done.run["energy"], done.run["throughput_ips"]
    assert energy["watts"] == pytest.approx(80, rel=0.2) and energy["idle_watts"] == pytest.approx(80, rel=0.2)
    assert energy["per_joule"] == pytest.approx(ips / energy["watts"]) and energy["problem"] is None
    assert done.run["value"]["per_million"] == pytest.approx(100 / ips)
    assert "EUR a million" in done.stdout and "Value and efficiency" in (done.directory / "report.html").read_text()
    found = done.run["ceiling"]
    assert found["error"] is None and found["nireq"] == 2 and found["duration_s"] >= 2
    assert found["throughput_ips"] == pytest.approx(found["iterations"] * 2 / found["duration_s"])
    assert found["efficiency"] == pytest.approx(done.run["throughput_ips"] / found["throughput_ips"])
    rungs = [one["rung"] for one in found["ladder"]]
    assert rungs == ["in process", "the server alone", "through the balancer", "at the client"]
    log = (done.directory / done.run["directory"] / "logs/ceiling.log").read_text()
    assert "NUM_STREAMS: 2" in log and "INFERENCE_PRECISION_HINT: <Type: 'float32'>" in log
    assert "Ceiling: " in done.stdout and "The ladder" in (done.directory / "report.html").read_text()
