"""A campaign: every run of the plan in turn, each saved and summarised as it ends, so that nothing measured is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from controller import analyse, environment, models, report, rundir
from controller.errors import LoadproofError
from controller.launch.load import Doors
from controller.models import Model
from controller.plan import Plan, Run
from controller.progress import View
from controller.run import measure


@dataclass
class Campaign:
    """A resolved plan and the directory that its results go to."""

    plan: Plan
    runs: list[Run]
    directory: Path
    repository: Path
    doors: Doors = field(default_factory=Doors)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def run(self, console: Console) -> dict[str, Any]:
        """Measure every run, then write summary and report; returns the summary.

        On an error or Ctrl-C what was measured so far is saved, summarised and reported before the exception goes on.
        """
        self._check_doors()
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            installed = {run.server.model: self._model(run) for run in self.runs}
        except BaseException:
            with contextlib.suppress(OSError):
                self.directory.rmdir()  # there is nothing in it that could be of use
            raise
        self.runs = [with_defaults(run, installed[run.server.model]) for run in self.runs]
        self._write(interrupted=True)  # until the end is reached
        summary: dict[str, Any] | None = None
        try:
            with View(console, len(self.runs)) as view:
                for number, run in enumerate(self.runs, start=1):
                    view.begin(run.name, run.measure)
                    directory = self.directory / rundir.run_directory(number, run.name)
                    measure(run, self._run_id(number), directory, installed[run.server.model], view, self.doors)
                    summary = analyse.campaign(self.directory, summary)
            self._write(interrupted=False)
        finally:
            summary = analyse.campaign(self.directory, summary)
            report.render(self.directory)
        return summary

    def _check_doors(self) -> None:
        self.doors.require_free()
        for run in self.runs:
            if run.load.expect_workers and not self.doors.port:
                raise LoadproofError("load.expect_workers: workers from elsewhere need --listen HOST:PORT to come to")
            if run.load.via == "direct" and run.server.launch == "process" and self.doors.host != "127.0.0.1":
                raise LoadproofError(f"--listen {self.doors.host}: our server is on loopback; use load.via=balancer")

    def _model(self, run: Run) -> Model | None:
        return None if run.server.launch == "external" else models.get(run.server.model, self.repository)

    def _run_id(self, number: int) -> str:
        """First part of the request ids: the campaign's start and the run's number."""
        return f"{int(self.created.timestamp()):x}-{number}"

    def _write(self, interrupted: bool) -> None:
        plan = self.plan.model_dump(mode="json", exclude_none=True)
        rundir.write_campaign(
            self.directory,
            {
                "name": self.plan.name,
                "created": self.created.isoformat(timespec="seconds"),
                "loadproof": environment.version("loadproof"),
                "plan": plan,
                "plan_sha256": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest(),
                "environment": environment.record(),
                "runs": list(_planned(self.runs)),
                "interrupted": interrupted,
            },
        )


def with_defaults(run: Run, model: Model | None) -> Run:
    """The run with what suits the model for each input, and for the payload, of which the plan says nothing."""
    if model is None:
        return run
    load = run.load
    shapes = {name: [load.batch, *shape[1:]] for name, shape in model.shapes.items()}
    update: dict[str, Any] = {"shapes": {**shapes, **load.shapes}, "ranges": {**model.ranges, **load.ranges}}
    if "payload" not in load.model_fields_set:
        update["payload"] = model.payload
    return run.model_copy(update={"load": load.model_copy(update=update)})


def _planned(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {"name": run.name, "directory": rundir.run_directory(number, run.name), "spec": run.spec()}
        for number, run in enumerate(runs, start=1)
    ]


def output_directory(out: Path | None, plan: Plan) -> Path:
    """`out`, or `results/<plan>-<UTC time>`; LoadproofError when something is in it already."""
    directory = out or rundir.campaign_directory(Path("results"), plan.name, datetime.now(UTC))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise LoadproofError(f"--out {directory}: has something in it already; give a new or empty directory")
    return directory
