"""`loadproof run`: a plan becomes a campaign, with what watches it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadproof import plan as plans
from loadproof.commands.options import MODELS, Attached, Repository, host_port, read_stack

if TYPE_CHECKING:
    from loadproof.campaign import Campaign
    from loadproof.launch.endpoints import Endpoints
    from loadproof.progress import Terminal


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
    from loadproof import rundir
    from loadproof.campaign import Campaign, output_directory
    from loadproof.lock import claim, hold

    deployed = read_stack(stack)
    endpoints = _endpoints(listen, web, metrics) if deployed is None else deployed.endpoints(web, metrics)
    with contextlib.ExitStack() as held:
        if resume is not None:
            if plan or out or settings or dry_run:
                raise typer.BadParameter("goes alone: plan and results are in its DIR", param_hint="--resume")
            rundir.read_campaign(resume)  # else it is no campaign's, and nothing is put there
            held.enter_context(hold(resume, "--resume"))
            campaign = Campaign.resumed(resume, repository, endpoints, deployed)
        elif plan is None:
            raise typer.BadParameter("give a plan, as in plans/quick.toml, or --resume DIR", param_hint="PLAN")
        else:
            checked, runs = plans.read(plan, settings or ())
            if dry_run:
                _show_runs(checked, runs)
                return
            directory = output_directory(out, checked)
            held.enter_context(claim(directory, "--out"))
            campaign = Campaign(checked, runs, directory, repository, endpoints, deployed)
        _measure(campaign, watch, invites=listen is not None and deployed is None)


def _measure(campaign: Campaign, watch: bool, invites: bool) -> None:
    """The campaign to its end, and its figures on the terminal; raises typer.Exit with its code."""
    from loadproof import analyse
    from loadproof.progress import Terminal
    from loadproof.report import terminal

    said, console = Terminal(), Terminal(stderr=True)
    try:
        with contextlib.ExitStack() as watching:
            if watch:
                _watch(campaign, watching, console)
            if invites:
                line = f"a worker joins by:  {campaign.endpoints.invitation}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            summary = campaign.run(console)
    except KeyboardInterrupt:
        terminal.show_directory(campaign.directory, said)
        for line in (
            f"interrupted: everything was stopped; what was measured is in {campaign.directory}",
            f"go on with it:  loadproof run --resume {campaign.directory}",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        raise
    terminal.show(summary, said)
    said.print(f"report: {campaign.directory / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(analyse.exit_code(summary))


def _endpoints(listen: str | None, web: int | None, metrics: int | None) -> Endpoints:
    from loadproof.launch.endpoints import Endpoints

    if listen is None:
        return Endpoints(web_port=web, metrics_port=metrics)
    host, port = host_port(listen, "--listen")
    if host in ("0.0.0.0", "::"):
        raise typer.BadParameter(
            f"{listen}: give the address that the workers reach, not all of them", param_hint="--listen"
        )
    return Endpoints(host, port, web, metrics)


def _watch(campaign: Campaign, stack: contextlib.ExitStack, console: Terminal) -> None:
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
