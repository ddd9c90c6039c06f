"""A campaign: every run of the plan in turn, each saved and summarised as it ends, so that nothing measured is lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from loadproof import analyse, calibration, environment, models, report, rundir
from loadproof.analyse import Summary
from loadproof.errors import LoadproofError, UsageError
from loadproof.launch.endpoints import Endpoints
from loadproof.launch.stack import Stack
from loadproof.models import Model
from loadproof.plan import Plan, Run
from loadproof.progress import View
from loadproof.run import measure

# From one window to the next: server, balancer, references, workers, T0 and the last records (8 to 12 s seen with a
# small model on two cores).
STARTED_S = 10
_NAMES = ("name", "repeat", "point")  # what a run has in addition to its spec


@dataclass
class Campaign:
    """A resolved plan and the directory that its results go to.

    `runs` stand in the order in which they are measured; those that ended before, in an earlier try that was
    interrupted, are not measured again.
    """

    plan: Plan
    runs: list[Run]
    directory: Path
    repository: Path
    endpoints: Endpoints = field(default_factory=Endpoints)
    stack: Stack | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    _known: Summary | None = field(default=None, init=False)  # of the runs that ended until now

    @classmethod
    def resumed(cls, directory: Path, repository: Path, endpoints: Endpoints, stack: Stack | None) -> Campaign:
        """The campaign of `directory` as it was planned; raises LoadproofError where nothing is left to do.

        UsageError where another version began it: half of its runs would be measured by one, half by the other.
        """
        facts = rundir.read_campaign(directory)
        began, ours = facts.get("loadproof"), environment.version("loadproof")
        if began != ours:
            raise UsageError(
                f"--resume {directory}: Loadproof {began} wrote it, and this is {ours}; go on with that version, or run"
                " the plan again (report, compare and history read it as it is)"
            )
        if not facts["interrupted"]:
            raise LoadproofError(
                f"--resume {directory}: that campaign ended; nothing is left to do"
                f" (its report again: loadproof report {directory})"
            )
        with rundir.blamed(directory / "campaign.json"):
            plan = Plan.model_validate(facts["plan"])
            runs = [Run.model_validate({**one["spec"], **{k: one[k] for k in _NAMES}}) for one in facts["runs"]]
            created = datetime.fromisoformat(facts["created"])
        return cls(plan, runs, directory, repository, endpoints, stack, created)

    def run(self, console: Console) -> Summary:
        """Measure every run, then write summary and report; returns the summary.

        On an error or Ctrl-C what was measured so far is saved, summarised and reported before the exception goes on.
        """
        self._check_endpoints()
        installed = {run.server.model: self._model(run) for run in self.runs}
        self.directory.mkdir(parents=True, exist_ok=True)
        self.runs = [with_defaults(run, installed[run.server.model]) for run in self.runs]
        self._write(interrupted=True)  # until the end is reached
        self._clear_interrupted()
        try:
            self._measure_all(console, installed)
            self._write(interrupted=False)
        except BaseException:
            self._report_what_there_is(console)
            raise
        summary = analyse.campaign(self.directory, self._known)
        report.render(self.directory)
        return summary

    def _measure_all(self, console: Console, installed: Mapping[str, Model | None]) -> None:
        if len(self.runs) > 1 or self.plan.tune:
            console.print(extent(self.plan, self.runs), highlight=False)
        with View(console, len(self.runs)) as view:
            number = 0
            while number < len(self.runs) or self._grow(self._known):
                run, number = self.runs[number], number + 1
                view.begin(run.name, run.measure)
                if not rundir.is_finished(self._directory_of(number)):
                    self._measure(number, run, installed[run.server.model], view)
                self._known = analyse.campaign(self.directory, self._known)

    def _measure(self, number: int, run: Run, model: Model | None, view: View) -> None:
        endpoints = replace(self.endpoints, last=self._is_last(number))
        directory = self._directory_of(number)
        try:
            measure(run, self._run_id(number), directory, model, view, endpoints, self.stack, self.plan)
        except LoadproofError as error:
            if not self._may_leave_out(self._known):
                raise
            view.stage(f"left out, since it did not start: {error}")

    def _report_what_there_is(self, console: Console) -> None:
        """After an error or Ctrl-C, which is to be told and not what goes wrong here: a full disk is full for both."""
        try:
            analyse.campaign(self.directory, self._known)
            report.render(self.directory)
        except Exception as error:
            again = f"loadproof report {self.directory}"
            console.print(f"no report was written ({error}); later:  {again}", markup=False, highlight=False)

    def _clear_interrupted(self) -> None:
        """What is measured again leaves nothing of the earlier try that a summary could still show."""
        for number in range(1, len(self.runs) + 1):
            directory = self._directory_of(number)
            if directory.exists() and not rundir.is_finished(directory):
                shutil.rmtree(directory)

    def _directory_of(self, number: int) -> Path:
        return self.directory / rundir.run_directory(number, self.runs[number - 1].name)

    def _is_last(self, number: int) -> bool:
        """No other run is to be measured after this one; of a search or tuning nobody knows."""
        later = range(number + 1, len(self.runs) + 1)
        return not self.plan.chooses and all(rundir.is_finished(self._directory_of(one)) for one in later)

    def _grow(self, summary: Summary | None) -> bool:
        """Of a search or tuning: adds the next run, which follows from those before; False where there is none."""
        settings = summary and analyse.next_settings(self.plan.model_dump(), summary.runs)
        if not settings:
            return False
        repeats = [run for run in self.runs if run.spec() == self.runs[0].at(settings).spec()]
        point = repeats[0].point if repeats else 1 + max(run.point for run in self.runs)
        self.runs.append(self.runs[0].at(settings, point, repeat=len(repeats) + 1))
        self._write(interrupted=True)
        return True

    def _may_leave_out(self, summary: Summary | None) -> bool:
        """Whether a run that did not start is an answer: a tuning may try what this machine's server refuses."""
        return bool(self.plan.tune and summary and any(one.verdict != "INVALID" for one in summary.runs))

    def _check_endpoints(self) -> None:
        self.endpoints.require_free()
        if self.stack is not None:
            self.stack.check(self.runs)
            if any(run.server.ceiling for run in self.runs):
                raise LoadproofError("server.ceiling: in a stack the server's platform is not ours; leave it out")
            return
        host = self.endpoints.host
        for run in self.runs:
            if run.load.expect_workers and not self.endpoints.port:
                raise LoadproofError("load.expect_workers: workers from elsewhere need --listen HOST:PORT to come to")
            if run.load.via == "direct" and run.server.is_on_loopback and host != "127.0.0.1":
                raise LoadproofError(f"--listen {host}: our server is on loopback; use load.via=balancer")

    def _model(self, run: Run) -> Model | None:
        return None if run.server.launch == "external" else models.get(run.server.model, self.repository)

    def _run_id(self, number: int) -> str:
        """First part of the request ids: the campaign's start and the run's number."""
        return f"{int(self.created.timestamp()):x}-{number}"

    @cached_property
    def _calibration(self) -> dict[str, Any]:
        """Of the machine whose workers make the load; what a stack's can do is not known here."""
        if self.stack is not None:
            return calibration.Calibration("elsewhere", "the workers are the stack's").record()
        return calibration.read().record()

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
                "calibration": self._calibration,
                "stack": self.stack and self.stack.model_dump(mode="json"),
                "runs": list(_planned(self.runs)),
                "interrupted": interrupted,
            },
        )


def with_defaults(run: Run, model: Model | None) -> Run:
    """The run with what suits the model for each input, and for the payload, of which the plan says nothing."""
    if model is None:
        return run
    load = run.load
    shapes = {name: [load.inferences, *shape[1:]] for name, shape in model.shapes.items()}
    update: dict[str, Any] = {"shapes": {**shapes, **load.shapes}, "ranges": {**model.ranges, **load.ranges}}
    if "payload" not in load.model_fields_set:
        update["payload"] = model.payload
    return run.model_copy(update={"load": load.model_copy(update=update)})


def extent(plan: Plan, runs: Sequence[Run]) -> str:
    """How many runs there are or can be, and how long they take."""
    if plan.tune:
        most = plan.tune.runs_max
        return f"at most {most} runs, each chosen by those before, {estimate([runs[0]] * most)}"
    more = ", and more that follow from it" if plan.search else ""
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}{more}, {estimate(runs)}"


def estimate(runs: Sequence[Run]) -> str:
    """How long they take, in words: warm-up and window, and STARTED_S each."""
    windows = ((run.measure.warmup_s, run.measure.duration_s * (1 + run.server.ceiling)) for run in runs)
    load_s = sum(warmup_s + duration_s for warmup_s, duration_s in windows)
    minutes, seconds = divmod(round(load_s + STARTED_S * len(runs)), 60)
    return f"{load_s:.0f} s of load, about {f'{minutes} min ' if minutes else ''}{seconds} s in all"


def _planned(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {
            **{key: getattr(run, key) for key in _NAMES},
            "directory": rundir.run_directory(number, run.name),
            "spec": run.spec(),
        }
        for number, run in enumerate(runs, start=1)
    ]


def output_directory(out: Path | None, plan: Plan) -> Path:
    """`out`, or `results/<plan>-<UTC time>`."""
    return out or rundir.campaign_directory(Path("results"), plan.name, datetime.now(UTC))
