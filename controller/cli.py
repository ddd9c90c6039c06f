"""The `loadproof` command: one subcommand for each stage; exit codes are in controller/errors.py."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from controller import environment
from controller import plan as plans
from controller.errors import Exit, LoadproofError

if TYPE_CHECKING:
    from controller.launch.load import Doors

app = typer.Typer(
    name="loadproof",
    help="Load-test model servers and prove the numbers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
model_app = typer.Typer(help="The model repository: models/<name>/<version>/.", no_args_is_help=True)
app.add_typer(model_app, name="model")

Repository = Annotated[Path, typer.Option("--models", help="the model repository")]
MODELS = Path("models")


def _version(asked: bool) -> None:
    if asked:
        print(f"loadproof {environment.version('loadproof')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    """Load-test model servers and prove the numbers."""


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="a campaign in TOML, as in plans/quick.toml")],
    out: Annotated[Path | None, typer.Option(help="the run directory; default results/<plan>-<UTC time>")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="lay a value over the plan; repeatable"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check the plan, list its runs, start nothing")] = False,
    repository: Repository = MODELS,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="where workers from elsewhere join; default: this machine only"),
    ] = None,
    web: Annotated[int | None, typer.Option(metavar="PORT", help="Locust's web UI on 127.0.0.1:PORT")] = None,
) -> None:
    """Measure every run of a plan and write the report.

    Exit codes: 0 good (FLAGGED included), 1 error, 2 bad plan or usage, 3 an SLO failed, 4 a run is INVALID,
    130 interrupted.
    """
    from controller import analyse
    from controller.campaign import Campaign, output_directory
    from controller.report import terminal

    checked, runs = plans.read(plan, settings or ())
    if dry_run:
        _show_runs(checked, runs)
        return
    campaign = Campaign(checked, runs, output_directory(out, checked), repository, _doors(listen, web))
    console = Console(stderr=True)
    try:
        summary = campaign.run(console)
    except KeyboardInterrupt:
        terminal.show_directory(campaign.directory, Console())
        print(f"interrupted: everything was stopped; what was measured is in {campaign.directory}", file=sys.stderr)
        raise
    terminal.show(summary, Console())
    print(f"report: {campaign.directory / 'report.html'}")
    raise typer.Exit(analyse.exit_code(summary))


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="a run directory")]) -> None:
    """Analyse and render a run directory again; nothing but its files is read."""
    from controller import analyse
    from controller import report as reports
    from controller.report import terminal

    summary = analyse.campaign(directory)
    reports.render(directory)
    terminal.show(summary, Console())
    print(f"report: {directory / 'report.html'}")


@app.command()
def worker(
    master: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="where the controller's Locust master listens")],
) -> None:
    """Join a campaign as a load worker, from this or another machine."""
    from controller.launch.child import python_environment

    host, port = _host_port(master if ":" in master else f"{master}:5557", "--master")
    command = [sys.executable, "-m", "clients.load.worker", "--host", host, "--port", str(port)]
    # Locust patches a process when it is imported: it gets one of its own
    os.execve(sys.executable, command, python_environment())


@app.command()
def doctor() -> None:
    """Say what this machine lacks for a campaign, each line with its cure; exit 1 when something is lacking."""
    from controller.doctor import examine

    findings = examine()
    colours = {"ok": "green", "note": "yellow", "lacks": "bold red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(f"[{colours[finding.level]}]{finding.level}[/]", finding.subject, finding.found, finding.cure)
    Console().print(table)
    raise typer.Exit(Exit.ERROR if any(finding.level == "lacks" for finding in findings) else Exit.GOOD)


@model_app.command("get")
def model_get(
    model: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="a name of `loadproof model list`, or a model file or directory")
    ],
    name: Annotated[str | None, typer.Option(help="what a PATH is to be called; default its stem")] = None,
    repository: Repository = MODELS,
) -> None:
    """Bring a model into the repository: a name of the catalogue, or anything that OpenVINO converts."""
    from controller import models

    found = models.get(model, repository, name=name)
    print(f"{found.name}: {found.directory} ({found.size_bytes / 1e6:.1f} MB, {found.licence})")


@model_app.command("list")
def model_list(repository: Repository = MODELS) -> None:
    """List the models that can be had by name, and those in the repository."""
    from controller import models

    here = {model.name: model for model in models.installed(repository)}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("name", "here", "licence", "source", "what it is"):
        table.add_column(heading)
    for name, entry in models.CATALOGUE.items():
        table.add_row(name, "yes" if name in here else "", entry.licence, entry.source, entry.description)
    for name, model in here.items():
        if name not in models.CATALOGUE:
            path = model.source.get("path", "")
            table.add_row(name, "yes", *(escape(text) for text in (model.licence, path, model.description)))
    Console().print(table)


@app.command()
def schema() -> None:
    """Print the plan's JSON Schema, for editors."""
    print(json.dumps(plans.Plan.model_json_schema(), indent=2))


def _host_port(address: str, option: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or ":" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{address}: allowed: HOST:PORT", param_hint=option)
    return host, int(port)


def _doors(listen: str | None, web: int | None) -> Doors:
    from controller.launch.load import Doors

    if listen is None:
        return Doors(web_port=web)
    host, port = _host_port(listen, "--listen")
    if host in ("0.0.0.0", "::", "[::]"):
        raise typer.BadParameter(
            f"{listen}: give the address that the workers reach, not all of them", param_hint="--listen"
        )
    return Doors(host, port, web)


def _show_runs(plan: plans.Plan, runs: list[plans.Run]) -> None:
    seconds = sum(run.measure.warmup_s + run.measure.duration_s for run in runs)
    print(f"{plan.name}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {seconds:.0f} s of load")
    for number, run in enumerate(runs, start=1):
        load, measure = run.load, run.measure
        print(
            f"  {number:>3}  {run.name}: {load.protocol} via {load.via}, {load.clients} clients in {load.processes}"
            f" processes, batch {load.batch}, {measure.warmup_s:g} s warm-up + {measure.duration_s:g} s"
        )


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> None:
    """The console script: every error becomes one clear line and its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's wish; else a closed terminal is a Ctrl-C
        signal.signal(signal.SIGHUP, _terminate)
    try:
        app(standalone_mode=True)  # a KeyboardInterrupt becomes Exit.INTERRUPTED there
    except LoadproofError as error:
        _complain(str(error), error.detail)
        sys.exit(error.exit_code)
    except OSError as error:  # of the disk, mostly: programs and networks have errors of their own
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}; see that there is room and permission")
        sys.exit(Exit.ERROR)


def _complain(message: str, detail: str = "") -> None:
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    errors.print(f"[bold red]error:[/] {escape(message)}")
    if detail:
        errors.print(detail, markup=False, style="dim")
