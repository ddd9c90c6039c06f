"""A campaign that chooses its runs, with made-up measurements: what it adds, what it bears, and how it goes on."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console

from loadproof import analyse, rundir
from loadproof.campaign import Campaign
from loadproof.errors import Exit, LoadproofError
from loadproof.launch.endpoints import Endpoints
from loadproof.plan import Run, resolve
from loadproof.progress import Terminal
from loadproof.run.observations import Observations
from tests.controller import synthetic

PLAN: dict[str, Any] = {
    "name": "t",
    "server": {"model": "m"},
    "load": {"clients": 4, "processes": 2, "via": "balancer"},
    "slo": {"p90_ms": 50.0},
    "tune": {"streams": [1, 2], "precision": ["f32", "bf16"], "tries": 1},
}


class Offline(Campaign):
    """Of a model that is nowhere."""

    def _model(self, run: Run) -> None:
        return None


def made_up(refuses: str, stops_at: int = 99) -> Any:
    """A measurement that takes no time: two streams are twice as fast; one precision does not start."""
    begun = 0

    def measure(run: Run, run_id: str, directory: Path, *_: Any) -> None:
        nonlocal begun
        begun += 1
        directory.mkdir(parents=True)
        if begun == stops_at:
            raise KeyboardInterrupt
        if run.server.precision == refuses:
            events = [{"code": "interrupted", "message": "the machine lacks it", "time_s": None}]
            rundir.write_run(directory, {"spec": run.spec(), "events": events})
            raise LoadproofError(f"server.precision = {refuses}: this machine lacks it")
        spec = synthetic.spec() | run.spec()
        synthetic.make(begun, service_ms=8.0 / (run.server.streams or 1), of=spec).write(directory)

    return measure


def campaign(directory: Path) -> Offline:
    plan, runs = resolve(PLAN, "plan")
    return Offline(plan, runs, directory, directory / "models")


def told() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_a_tuning_bears_what_the_server_refuses_and_never_calls_it_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadproof.campaign.measure", made_up(refuses="bf16"))
    summary = campaign(tmp_path / "out").run(told())
    assert summary.sweet_spot and summary.sweet_spot.best == "streams=2, precision=f32"
    assert summary.tune and summary.tune.ended and not summary.campaign.interrupted
    assert [run.verdict for run in summary.runs].count("INVALID") == summary.tune.measured - 2
    assert analyse.exit_code(summary) == Exit.GOOD


def test_where_nothing_started_yet_a_refusal_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadproof.campaign.measure", made_up(refuses="f32"))
    with pytest.raises(LoadproofError, match="this machine lacks it"):
        campaign(tmp_path / "out").run(told())


def test_an_interrupted_tuning_goes_on_to_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadproof.campaign.measure", made_up(refuses="f16"))
    whole = campaign(tmp_path / "whole").run(told())
    monkeypatch.setattr("loadproof.campaign.measure", made_up(refuses="f16", stops_at=3))
    with pytest.raises(KeyboardInterrupt):
        campaign(tmp_path / "cut").run(told())
    monkeypatch.setattr("loadproof.campaign.measure", made_up(refuses="f16"))
    resumed = Offline.resumed(tmp_path / "cut", tmp_path / "models", Endpoints(), None).run(told())
    names = [[(run.name, run.spec) for run in one.runs] for one in (whole, resumed)]
    assert names[0] == names[1] and whole.sweet_spot and resumed.sweet_spot
    assert whole.sweet_spot.best == resumed.sweet_spot.best


BREAKS: Final = (
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    RecursionError("maximum recursion depth exceeded"),
    OSError(errno.ENOSPC, "No space left on device", "/full/run.json"),
    SystemExit(1),
    ValueError("nobody thought of it"),
    MemoryError(),
    KeyboardInterrupt(),
    LoadproofError("the server did not start"),
)


@pytest.mark.parametrize("error", BREAKS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("while_collecting", [False, True], ids=["online", "collecting"])
def test_a_run_that_broke_says_why_and_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, while_collecting: bool
) -> None:
    """Whatever breaks it and wherever: only what wrote its end is finished."""

    def broken(*_: Any) -> None:
        raise error

    if while_collecting:
        monkeypatch.setattr("loadproof.run.online._online", lambda *_: None)
        monkeypatch.setattr("loadproof.rundir.write_generator", broken)
    else:
        monkeypatch.setattr("loadproof.run.online._online", broken)
    with pytest.raises(type(error)):
        swept(tmp_path / "out").run(told())
    (run,) = (tmp_path / "out/runs").iterdir()
    facts = rundir.read_run(run)
    assert facts and facts["end"]["finished"] is False and facts["end"]["reason"]
    assert not rundir.is_finished(run)
    summary = analyse.read(tmp_path / "out")
    assert summary and [reason.code for reason in summary.runs[0].reasons] == ["interrupted"]
    assert summary.campaign.interrupted
    monkeypatch.undo()
    monkeypatch.setattr("loadproof.campaign.measure", made_up(refuses=""))
    resumed = Offline.resumed(tmp_path / "out", tmp_path / "models", Endpoints(), None).run(told())
    assert [one.requests.ok > 0 for one in resumed.runs] == [True, True]


def test_one_ctrl_c_while_collecting_lets_that_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = rundir.write_generator, []

    def once(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr("loadproof.run.online._online", lambda *_: None)
    monkeypatch.setattr("loadproof.rundir.write_generator", once)
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out").run(told())
    (run,) = (tmp_path / "out/runs").iterdir()
    facts = rundir.read_run(run)
    assert facts and facts["end"] == {"finished": False, "reason": "the user stopped it"}
    assert (run / "generator.parquet").exists() and not (run / "work").exists()


def test_a_run_directory_without_an_end_is_unfinished(tmp_path: Path) -> None:
    synthetic.make(1).write(tmp_path)
    assert rundir.is_finished(tmp_path)
    facts = json.loads((tmp_path / "run.json").read_text())
    for text in (json.dumps({**facts, "end": None}), "{}", '{"schema": 1}', "", '{"schema": 1, "end": true}'):
        (tmp_path / "run.json").write_text(text)
        assert not rundir.is_finished(tmp_path)
    (tmp_path / "run.json").unlink()
    assert not rundir.is_finished(tmp_path)


def test_what_a_killed_master_wrote_half_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def online(seen: Observations, *_: Any) -> None:
        (seen.work / "generator.jsonl").write_text('{"worker": 1, "time_s": 0.5}\n{"worker": 1, "ti')
        (seen.work / "load.json").write_text('{"workers": [')

    monkeypatch.setattr("loadproof.run.online._online", online)
    summary = swept(tmp_path / "out").run(told())
    run = tmp_path / "out" / summary.runs[0].directory
    assert rundir.read_generator(run)["time_s"].to_pylist() == [0.5]
    facts = rundir.read_run(run)
    assert facts and facts["end"] == {"finished": False, "reason": "load.json of the load was not written whole"}


def test_an_error_is_told_before_what_goes_wrong_with_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "summary.json")

    monkeypatch.setattr("loadproof.campaign.measure", made_up(refuses="", stops_at=1))
    monkeypatch.setattr("loadproof.rundir.write_summary", full)
    console = told()
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out").run(console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "no report was written" in said and f"loadproof report {tmp_path / 'out'}" in said


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `| head -1` does; rich would raise SystemExit in the middle of the run."""
    monkeypatch.setattr("loadproof.campaign.measure", made_up(refuses=""))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        summary = swept(tmp_path / "out").run(Terminal(file=nobody))
    assert not summary.campaign.interrupted and all(run.verdict != "INVALID" for run in summary.runs)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), LoadproofError("the payload maker failed with code 1")]
)
def test_where_no_room_was_left_the_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Programs that write their logs there say nothing, and a failed write names no file."""

    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr("loadproof.run.online._online", broken)
    monkeypatch.setattr("loadproof.run.online.ROOM_BYTES_MIN", 1 << 60)
    with pytest.raises(LoadproofError, match=rf"{tmp_path}/out/runs/001-.*: no room is left on its disk"):
        swept(tmp_path / "out").run(told())


def swept(directory: Path) -> Offline:
    """Of two runs."""
    plan, runs = resolve({key: PLAN[key] for key in PLAN if key != "tune"} | {"sweep": {"server.streams": [1, 2]}}, "p")
    return Offline(plan, runs, directory, directory / "models")
