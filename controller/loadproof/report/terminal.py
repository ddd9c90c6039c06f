"""The summary on the terminal: a table of the runs, each one's reasons and their cures, and who counted what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadproof import analyse, escapes
from loadproof.analyse import RunSummary, Summary
from loadproof.report import display

STYLES: Final = {"VALID": "bold green", "FLAGGED": "bold yellow", "INVALID": "bold red"}


def show(summary: Summary, console: Console) -> None:
    """Prints the summary; at 80 columns nothing is cut off, without a terminal there are no colours."""
    runs, campaign = summary.runs, summary.campaign
    for answer in answers(summary):
        say(console, Text(answer, "bold"))
        console.print()
    if runs:
        _list(runs, console)
    for run in runs:
        _explain(run, console, named=len(runs) > 1)
    console.print()
    for run in runs:
        for line in filter(None, [display.ceiling(run), display.worth(run)]):
            say(console, Text(f"{run.name}: " if len(runs) > 1 else "", "dim") + Text(line))
    for note, times in Counter(note for run in runs for note in run.notes).items():
        some = f" ({times} of {len(runs)} runs)" if times < len(runs) else ""
        say(console, Text(f"note: {note}{some}", "dim"))
    if campaign.runs_missing:
        text = f"{campaign.runs_missing} of {campaign.runs_planned} planned runs were not begun."
        console.print(Text(text, "yellow"))


def answers(summary: Summary) -> list[str]:
    """What the campaign was for, where it was for one answer; it comes first."""
    return [
        *([display.answer(summary.search)] if summary.search else []),
        *([display.sweet_spot(summary.sweet_spot)] if summary.sweet_spot else []),
        *([display.tuning(summary.tune)] if summary.tune else []),
    ]


def show_directory(directory: Path, console: Console) -> None:
    """Prints what has been summarised in `directory` so far; nothing where nothing has."""
    summary = analyse.read(directory)
    if summary:
        show(summary, console)


def say(console: Console, text: Text, lead: Text | None = None) -> None:
    """Wrapped, without a space at the end of a line; `lead` stands before the first one, as much room before others.

    What it says may be a stranger's: nothing of it controls the terminal.
    """
    lead = lead or Text()
    text.plain = escapes.terminal(text.plain)
    for number, line in enumerate(text.wrap(console, console.width - len(lead))):
        line.rstrip()
        console.print((Text(" " * len(lead)) if number else lead) + line)


def _list(runs: Sequence[RunSummary], console: Console) -> None:
    """A table of the runs; where it is too wide, each one's name has a line of its own above its figures."""
    table = _table(runs)
    if table.__rich_measure__(console, console.options).maximum <= console.width:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(_table(runs, named=False))
    head, *figures = captured.get().splitlines()
    console.print(Text.from_ansi(f"  {head}"))
    for run, line in zip(runs, figures, strict=True):
        say(console, Text(run.name))
        console.print(Text.from_ansi(f"  {line}"))


def _table(runs: Sequence[RunSummary], named: bool = True) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in ("run", "verdict") if named else ("verdict",):
        table.add_column(name, no_wrap=True)
    for name in ("sent", "ok", "failed", "wrong", "/ s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        counts, latency = run.requests, run.latency_ms
        table.add_row(
            *([Text(escapes.terminal(run.name))] if named else []),
            Text(run.verdict, STYLES[run.verdict]),
            *(display.count(number) for number in (counts.sent, counts.ok)),
            *(Text(display.count(bad), "bold red" if bad else "") for bad in (counts.failed, counts.wrong)),
            display.figure(run.throughput_rps),
            *(display.figure(latency[name]) for name in ("p50", "p95", "p99")),
        )
    return table


def _explain(run: RunSummary, console: Console, named: bool) -> None:
    """The run's witnesses, reasons and limits; of several runs only those that have something to explain."""
    if named:
        if run.verdict == "VALID" and all(limit.ok for limit in run.slo):
            return
        console.print(Text(escapes.terminal(f"\n{run.name}"), "bold"))
    else:
        console.print()
    if run.window.start:
        agree = "disagree" if run.reconcile.differences else "agree"
        say(console, Text.assemble((f"witnesses {agree}: ", "dim"), display.agreement(run)))
    for reason in run.reasons:
        say(console, Text.assemble((reason.severity, STYLES[reason.severity]), " ", reason.message))
        say(console, Text(reason.remedy, "dim"), Text("  "))
    for limit in run.slo:
        word, style = ("kept", "green") if limit.ok else ("broken", "bold red")
        text = f" slo.{limit.metric} = {limit.limit:g}, measured {display.figure(limit.value)}"
        say(console, Text.assemble((word, style), text))
