"""The summary on the terminal: a table of the runs, each one's reasons and their cures, and who counted what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from controller import rundir
from controller.report import display

STYLES: Final = {"VALID": "bold green", "FLAGGED": "bold yellow", "INVALID": "bold red"}


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Prints the summary; at 80 columns nothing is cut off, without a terminal there are no colours."""
    runs, campaign = summary["runs"], summary["campaign"]
    if runs:
        console.print(_table(runs))
    for run in runs:
        _explain(run, console, named=len(runs) > 1)
    console.print()
    for note, times in Counter(note for run in runs for note in run["notes"]).items():
        some = f" ({times} of {len(runs)} runs)" if times < len(runs) else ""
        console.print(Text(f"note: {note}{some}", "dim"))
    if campaign.get("runs_missing"):
        text = f"{campaign['runs_missing']} of {campaign['runs_planned']} planned runs were not begun."
        console.print(Text(text, "yellow"))


def show_directory(directory: Path, console: Console) -> None:
    """Prints what has been summarised in `directory` so far; nothing where nothing has."""
    summary = rundir.read_summary(directory)
    if summary:
        show(summary, console)


def _table(runs: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("run", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for name in ("sent", "ok", "failed", "wrong", "/ s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        counts, latency = run["requests"], run["latency_ms"]
        table.add_row(
            Text(run["name"]),
            Text(run["verdict"], STYLES[run["verdict"]]),
            *(display.count(counts[name]) for name in ("sent", "ok")),
            *(Text(display.count(counts[name]), "bold red" if counts[name] else "") for name in ("failed", "wrong")),
            display.figure(run["throughput_rps"]),
            *(display.figure(latency[name]) for name in ("p50", "p95", "p99")),
        )
    return table


def _explain(run: Mapping[str, Any], console: Console, named: bool) -> None:
    """The run's witnesses, reasons and limits; of several runs only those that have something to explain."""
    if named:
        if run["verdict"] == "VALID" and all(limit["ok"] for limit in run["slo"]):
            return
        console.print(Text(f"\n{run['name']}", "bold"))
    else:
        console.print()
    agree = "disagree" if run["reconcile"]["differences"] else "agree"
    console.print(Text.assemble((f"witnesses {agree}: ", "dim"), display.agreement(run)))
    for reason in run["reasons"]:
        console.print(Text.assemble((reason["severity"], STYLES[reason["severity"]]), " ", reason["message"]))
        console.print(Padding(Text(reason["remedy"], "dim"), (0, 0, 0, 2), expand=False))
    for limit in run["slo"]:
        word, style = ("kept", "green") if limit["ok"] else ("broken", "bold red")
        text = f" slo.{limit['metric']} = {limit['limit']:g}, measured {display.figure(limit['value'])}"
        console.print(Text.assemble((word, style), text))
