"""The `loadproof` command: one subcommand for each stage; exit codes are in loadproof/errors.py."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadproof import environment
from loadproof import plan as plans
from loadproof.errors import Exit, LoadproofError

if TYPE_CHECKING:
    from loadproof.campaign import Campaign
    from loadproof.launch.endpoints import Endpoints
    from loadproof.launch.stack import Stack

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
Attached = Annotated[
    str | None,
    typer.Option(
        "--stack",
        metavar="KEY=VALUE...",
        envvar="LOADPROOF_STACK",
        help="server, balancer and workers run already, as compose.yaml starts them; "
        "the keys are in loadproof/launch/stack.py",
    ),
]


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
    plan: Annotated[Path | None, typer.Argument(help="a campaign in TOML, as in plans/quick.toml")] = None,
    out: Annotated[Path | None, typer.Option(help="the run directory; default results/<plan>-<UTC time>")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="lay a value over the plan; repeatable"),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="go on with an interrupted campaign; it has its own plan")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check the plan, list its runs, start nothing")] = False,
    repository: Repository = MODELS,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="where workers from elsewhere join; default: this machine only"),
    ] = None,
    web: Annotated[int | None, typer.Option(metavar="PORT", help="Locust's web UI on 127.0.0.1:PORT")] = None,
    metrics: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="the clients' live metrics for a Prometheus, on --listen's host or 127.0.0.1"
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="run a Prometheus with the campaign, to watch its runs")
    ] = False,
    stack: Attached = None,
) -> None:
    """Measure every run of a plan and write the report.

    Exit codes: 0 good (FLAGGED included), 1 error, 2 bad plan or usage, 3 an SLO failed, 4 a run is INVALID,
    130 interrupted.
    """
    from loadproof import analyse
    from loadproof.campaign import Campaign, output_directory
    from loadproof.report import terminal

    deployed = _stack(stack)
    endpoints = _endpoints(listen, web, metrics) if deployed is None else deployed.endpoints(web, metrics)
    if resume is not None:
        if plan or out or settings or dry_run:
            raise typer.BadParameter("goes alone: plan and results are in its DIR", param_hint="--resume")
        campaign = Campaign.resumed(resume, repository, endpoints, deployed)
    elif plan is None:
        raise typer.BadParameter("give a plan, as in plans/quick.toml, or --resume DIR", param_hint="PLAN")
    else:
        checked, runs = plans.read(plan, settings or ())
        if dry_run:
            _show_runs(checked, runs)
            return
        campaign = Campaign(checked, runs, output_directory(out, checked), repository, endpoints, deployed)
    console = Console(stderr=True)
    try:
        with contextlib.ExitStack() as watching:
            if watch:
                _watch(campaign, watching, console)
            summary = campaign.run(console)
    except KeyboardInterrupt:
        terminal.show_directory(campaign.directory, Console())
        print(f"interrupted: everything was stopped; what was measured is in {campaign.directory}", file=sys.stderr)
        print(f"go on with it:  loadproof run --resume {campaign.directory}", file=sys.stderr)
        raise
    terminal.show(summary, Console())
    print(f"report: {campaign.directory / 'report.html'}")
    raise typer.Exit(analyse.exit_code(summary))


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="a run directory")]) -> None:
    """Analyse and render a run directory again; nothing but its files is read."""
    from loadproof import analyse
    from loadproof import report as reports
    from loadproof.report import terminal

    summary = analyse.campaign(directory)
    reports.render(directory)
    terminal.show(summary, Console())
    print(f"report: {directory / 'report.html'}")


@app.command()
def compare(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B [C ...]",
            help="campaigns, or directories of campaigns whose runs count as repeats; A is before",
        ),
    ],
    metric: Annotated[
        str | None,
        typer.Option(help="the one that decides; default: throughput_rps of a closed loop, p50_ms of an open one"),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC<=+N%", help="p99_ms<=+5%, throughput_rps>=-3%; repeatable; broken: exit 3"),
    ] = None,
    across: Annotated[
        list[str] | None,
        typer.Option(metavar="SECTION[.KEY]", help="may differ between the sides, as in server.hint; repeatable"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="compare measurements of different machines or models")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="for a pull request")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="XML for continuous integration")] = None,
) -> None:
    """Say whether B is better or worse than A, or that there is no evidence; each metric with its bounds.

    Exit codes: 0 no gate is broken (also where nothing is proved: that is a warning), 1 error, 2 bad usage or not
    comparable, 3 the evidence says that a gate is broken, 4 only INVALID runs to compare.
    """
    from loadproof import rundir
    from loadproof.compare import comparison, files, gates, terminal

    if len(directories) < 2:
        raise typer.BadParameter("give two directories or more", param_hint="A B")
    wanted = gates.read_gates(gate or ())
    found = comparison.compare(directories, metric, across or (), force)
    judged = gates.judge(found, wanted)
    terminal.show(found, judged, Console())
    if markdown:
        rundir.write_text(markdown, files.markdown(found, judged))
    if junit:
        rundir.write_text(junit, files.junit(found, judged))
    raise typer.Exit(gates.exit_code(found, judged))


@app.command()
def history(
    directory: Annotated[Path, typer.Argument(help="a directory with campaigns below it")] = Path("results"),
    metric: Annotated[str, typer.Option(help="throughput_rps, mean_ms, p50_ms, p99_ms, ...")] = "throughput_rps",
) -> None:
    """Show a metric over all campaigns of a directory: one table for each spec, with the spread of its repeats."""
    from loadproof.compare import history as past

    series, broken = past.history(directory, metric)
    past.show(series, metric, Console())
    for message in broken:
        print(f"left out: {message}", file=sys.stderr)


@app.command()
def worker(
    master: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="where the controller's Locust master listens")],
    wait_s: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="how long to wait for a run to come")
    ] = 300,
    once: Annotated[bool, typer.Option("--once", help="leave after one run")] = False,
) -> None:
    """Join a campaign as a load worker, from this or another machine: wait for its runs, leave after the last one.

    Exit codes: 0 good, 1 no run came, 2 refused: another version of Loadproof, or one worker too many for --once.
    """
    from loadproof.launch.child import python_environment

    host, port = _host_port(master if ":" in master else f"{master}:5557", "--master")
    command = [sys.executable, "-m", "loadproof_clients.load.worker", "--host", host, "--port", str(port)]
    command += ["--wait", str(wait_s), *(["--once"] if once else [])]
    # Locust patches a process when it is imported: it gets one of its own
    os.execve(sys.executable, command, python_environment())


@app.command()
def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="measure how fast this machine's load generator is, and keep it")
    ] = False,
) -> None:
    """Say what this machine lacks for a campaign, each line with its cure; exit 1 when something is lacking.

    With --calibrate (a minute; nothing else should run): the ceiling and the floor of the load generator, to which
    every later run is held.
    """
    from loadproof.doctor import examine, show

    if calibrate:
        from loadproof.calibration import terminal

        terminal.calibrate(Console())
        return
    findings = examine()
    show(findings, Console())
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
    from loadproof import models

    found = models.get(model, repository, name=name)
    print(f"{found.name}: {found.directory} ({found.size_bytes / 1e6:.1f} MB, {found.licence})")


@model_app.command("provide")
def model_provide(
    plan: Annotated[Path, typer.Argument(help="a campaign in TOML, as in plans/quick.toml")],
    stack: Attached = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    repository: Repository = MODELS,
) -> None:
    """Have a stack's server serve what a plan's first run wants: for a server platform without a controller."""
    from loadproof import models

    if (deployed := _stack(stack)) is None:
        raise typer.BadParameter("give it: it says where the server is", param_hint="--stack")
    _, runs = plans.read(plan, settings or ())
    first = min(runs, key=lambda run: (run.repeat, run.point))
    model = models.get(first.server.model, repository)
    deployed.configure(first.server, model)
    print(f"{deployed.server_rest} serves {model.name} as {plan} wants it")


@model_app.command("list")
def model_list(repository: Repository = MODELS) -> None:
    """List the models that can be had by name, and those in the repository."""
    from loadproof import models

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
def schema(of: Annotated[Literal["plan", "summary"], typer.Argument(help="plan, or summary.json")] = "plan") -> None:
    """Print a JSON Schema: the plan's, for editors, or that of summary.json, for programs that read it."""
    from loadproof.analyse import Summary

    found = plans.Plan.model_json_schema() if of == "plan" else Summary.model_json_schema(mode="serialization")
    print(json.dumps(found, indent=2))


def _host_port(address: str, option: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or ":" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{address}: allowed: HOST:PORT", param_hint=option)
    return host, int(port)


def _stack(text: str | None) -> Stack | None:
    from loadproof.launch import stack

    try:
        return stack.parse(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--stack") from None


def _endpoints(listen: str | None, web: int | None, metrics: int | None) -> Endpoints:
    from loadproof.launch.endpoints import Endpoints

    if listen is None:
        return Endpoints(web_port=web, metrics_port=metrics)
    host, port = _host_port(listen, "--listen")
    if host in ("0.0.0.0", "::", "[::]"):
        raise typer.BadParameter(
            f"{listen}: give the address that the workers reach, not all of them", param_hint="--listen"
        )
    return Endpoints(host, port, web, metrics)


def _watch(campaign: Campaign, stack: contextlib.ExitStack, console: Console) -> None:
    """Starts a Prometheus that sees every run of the campaign; the clients get a port for it."""
    from loadproof.launch import prometheus
    from loadproof.launch.ports import free_ports

    endpoints, started = campaign.endpoints, stack.enter_context(prometheus.start())
    port = endpoints.metrics_port or free_ports(1, endpoints.host)[0]
    campaign.endpoints = dataclasses.replace(endpoints, metrics_port=port, prometheus=started)
    console.print(f"watch: {started.page}", highlight=False)


def _show_runs(plan: plans.Plan, runs: list[plans.Run]) -> None:
    from loadproof.campaign import extent

    print(f"{plan.name}: {extent(plan, runs)}")
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
