"""The subcommands of `loadproof`, one for each stage; exit codes are in loadproof/errors.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from loadproof import environment, escapes
from loadproof import plan as plans
from loadproof.commands import models
from loadproof.commands.run import run
from loadproof.commands.worker import worker
from loadproof.errors import Exit

app = typer.Typer(
    name="loadproof",
    help="Load-test model servers and prove the numbers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="model")


def _version(asked: bool) -> None:
    if asked:
        print(f"loadproof {environment.version('loadproof')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    """Load-test model servers and prove the numbers."""


app.command()(run)


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
        print(escapes.terminal(f"left out: {message}"), file=sys.stderr)


app.command()(worker)


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


@app.command()
def schema(of: Annotated[Literal["plan", "summary"], typer.Argument(help="plan, or summary.json")] = "plan") -> None:
    """Print a JSON Schema: the plan's, for editors, or that of summary.json, for programs that read it."""
    from loadproof.analyse import Summary

    found = plans.Plan.model_json_schema() if of == "plan" else Summary.model_json_schema(mode="serialization")
    print(json.dumps(found, indent=2))
