"""The calibration: made for real against the null server, kept, believed only where it holds, and used by a run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadproof import analyse, calibration, doctor, rundir
from loadproof.calibration import store, terminal
from loadproof_clients.apis import APIS
from loadproof_clients.null_server.answers import ANSWERS

ROOT = Path(__file__).parent.parent.parent
WAY = {
    "api": "kserve",
    "transport": "wire",
    "protocol": "rest",
    "ceiling_rps": 9000.0,
    "ceiling_low_rps": 8900.0,
    "ceiling_high_rps": 9100.0,
    "cpu_percent": 97.0,
    "cpu_us_per_request": 108.0,
    "floor_p50_ms": 0.1,
    "floor_p50_low_ms": 0.09,
    "floor_p50_high_ms": 0.11,
    "floor_p99_ms": None,
    "requests": 30_000,
}
SCALED = [key for key in WAY if key.startswith(("ceiling", "floor"))]
ROUNDS = 4


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's state directory; the file will be in it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "loadproof" / "calibration.json"


def line() -> doctor.Finding:
    (found,) = [finding for finding in doctor.examine() if finding.subject == "calibration"]
    return found


def test_what_is_kept_is_read_again_and_the_doctor_tells_of_it(state: Path) -> None:
    assert calibration.read().state == "none" and line().level == "note" and "--calibrate" in line().cure
    assert calibration.write([WAY]) == state
    found = calibration.read()
    assert (found.state, found.note, list(found.ways)) == ("valid", None, [WAY])
    assert found.threads == len(os.sched_getaffinity(0))
    assert line().level == "ok" and "wire rest 9,000" in line().found and str(found.created) in line().found


@pytest.mark.parametrize("key", ["cpu_model", "threads", "python", "hpack", "loadproof"])
def test_of_another_machine_or_version_it_is_stale_and_not_used(state: Path, key: str) -> None:
    calibration.write([WAY])
    content = json.loads(state.read_text())
    content["identity"][key] = "another"
    state.write_text(json.dumps(content))
    found = calibration.read()
    assert (found.state, list(found.ways)) == ("stale", []) and f"{key} was another" in str(found.note)
    assert line().level == "note" and line().found.startswith("stale") and "--calibrate" in line().cure


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 2}', '{"schema": 2, "identity": 5}'])
def test_a_file_that_is_not_ours_stops_nothing(state: Path, text: str) -> None:
    state.parent.mkdir(parents=True)
    state.write_text(text)
    assert calibration.read().state in ("broken", "stale") and not calibration.read().ways
    assert line().level == "note" and "--calibrate" in line().cure


def test_without_a_state_directory_it_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "relative/is/not/valid"):
        monkeypatch.setenv("XDG_STATE_HOME", text)
        assert calibration.path() == Path.home() / ".local/state/loadproof/calibration.json"


def test_each_api_is_calibrated_over_each_protocol_by_each_transport() -> None:
    transports = [("grpc", "tritonclient"), ("grpc", "wire"), ("rest", "tritonclient"), ("rest", "wire")]
    assert [(cell.protocol, cell.transport) for cell in calibration.CELLS if cell.api == "kserve"] == transports
    assert {cell.api for cell in calibration.CELLS} == set(APIS) == set(ANSWERS)


def shown(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    terminal.show(rows, Console(file=out, width=80))
    return out.getvalue()


def test_the_table_says_what_it_is_good_for_and_when_not_to_believe_it() -> None:
    calm = shown([WAY])
    assert "9,000" in calm and "near_ceiling" in calm and "mostly_floor" in calm and "note:" not in calm
    assert "wire rest (40 %)" in " ".join(shown([{**WAY, "cpu_percent": 40.0}]).split())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """Campaigns of a client alone and of many, against the null server, each right after a calibration.

    Other programs slow the one or the other down: at most ROUNDS, until a round shows what it should.
    """
    place, rounds = tmp_path_factory.mktemp("calibrated"), list[dict[str, Any]]()
    while len(rounds) < ROUNDS and not (rounds and all(codes_of(rounds[-1]))):
        rounds.append(measure(place / str(len(rounds))))
    yield rounds


def codes_of(summary: dict[str, Any]) -> list[bool]:
    alone, many = ([reason["code"] for reason in run["reasons"]] for run in summary["runs"])
    return ["mostly_floor" in alone, "near_ceiling" in many]


def with_room(row: dict[str, Any]) -> dict[str, Any]:
    """On a machine that others load, the run may get half of what the calibration had, and wait twice as long."""
    scales = {key: 0.5 if key.startswith("ceiling") else 2.0 for key in SCALED}
    return row | {key: value * scale for key, scale in scales.items() if (value := row[key]) is not None}


def measure(place: Path) -> dict[str, Any]:
    place.mkdir()
    environment = {**os.environ, "XDG_STATE_HOME": str(place / "state")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", environment["XDG_STATE_HOME"])
        rows = calibration.calibrate(lambda text: None, [calibration.Cell("kserve", "rest", "wire")], window_s=2.1)
        calibration.write([with_room(row) for row in rows])
        assert line().level == "ok"
    with calibration.null_server(place) as server:
        address = server.address["rest"]
        (place / "plan.toml").write_text(f"""
            name = "null"
            server = {{launch = "external", model = "null", rest_address = "{address}", metrics = "none"}}
            load = {{protocol = "rest", transport = "wire", via = "direct", clients = 1}}
            measure = {{warmup_s = 0.5, duration_s = 2, drain_s = 1}}
            sweep = {{"load.clients" = [1, 64]}}
        """)
        program = [sys.executable, "-c", "from loadproof.cli import main; main()"]
        command = [*program, "run", str(place / "plan.toml"), "--out", str(place / "out")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads((place / "out" / "summary.json").read_text())) | {"place": str(place / "out")}


def test_a_run_at_the_ceiling_and_one_that_is_all_floor_are_told_so(measured: list[dict[str, Any]]) -> None:
    assert codes_of(measured[-1]) == [True, True], [run["generator"] for one in measured for run in one["runs"]]
    for run in measured[-1]["runs"]:
        assert run["verdict"] == "FLAGGED" and not any("ceiling and floor" in note for note in run["notes"])


def test_the_campaign_holds_the_calibration_and_a_stale_one_judges_nothing(measured: list[dict[str, Any]]) -> None:
    place = Path(measured[-1]["place"])
    facts = rundir.read_campaign(place)
    held = facts["calibration"]
    assert held["state"] == "valid" and [way["transport"] for way in held["ways"]] == ["wire"]
    stale = store.Calibration("stale", "since then has changed: cpu_model").record()
    rundir.write_campaign(place, {**facts, "calibration": stale})
    for run in analyse.campaign(place).runs:
        assert not {"near_ceiling", "mostly_floor"} & {reason.code for reason in run.reasons}
        assert any("cpu_model (cure: loadproof doctor --calibrate)" in note for note in run.notes)
