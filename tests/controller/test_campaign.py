"""A campaign that chooses its runs, with made-up measurements: what it adds, what it bears, and how it goes on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadproof import analyse, rundir
from loadproof.campaign import Campaign
from loadproof.errors import Exit, LoadproofError
from loadproof.launch.endpoints import Endpoints
from loadproof.plan import Run, resolve
from tests.controller import synthetic

PLAN = {
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
