"""A comparison on the terminal: what differs around the runs, each metric's change, and last what follows from them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loadproof import escapes
from loadproof.compare import texts
from loadproof.compare.comparison import Comparison, Pair
from loadproof.compare.gates import Judged
from loadproof.report import display

STYLES: Final = {
    "better": "bold green",
    "kept": "green",
    "worse": "bold red",
    "broken": "bold red",
    "no evidence": "yellow",
    "not compared": "bold red",
}


def show(comparisons: Sequence[Comparison], judged: Sequence[Judged], console: Console) -> None:
    """Prints it; at 60 columns nothing is cut off, without a terminal there are no colours."""
    for index, comparison in enumerate(comparisons):
        if index:
            console.print()
        labels = ("A", string.ascii_uppercase[1:][index % 25])
        _sides(comparison, labels, console)
        for pair in comparison.pairs:
            if pair.is_sound:
                console.print(_metrics(comparison, pair, labels))
        for pair in comparison.pairs:
            _verdict(pair, console, named=len(comparison.pairs) > 1)
        for one in judged:
            if one.comparison is comparison:
                _gate(one, console, named=len(comparison.pairs) > 1)
        for warning in dict.fromkeys(texts.warnings(comparison, judged)):
            console.print(Text.assemble(("warning: ", "yellow"), _text(warning)))


def _text(words: str, style: str = "") -> Text:
    return Text(escapes.terminal(words), style)


def _sides(comparison: Comparison, labels: tuple[str, str], console: Console) -> None:
    grid = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for _ in range(3):
        grid.add_column(overflow="fold")
    for label, side in zip(labels, (comparison.before, comparison.after), strict=True):
        grid.add_row(Text(label, "bold"), _text(side.name), _text(texts.side(side), "dim"))
    console.print(grid)
    console.print()
    if comparison.differences:
        table = _table("differs", *labels)
        for column in table.columns[1:]:
            column.justify, column.overflow, column.no_wrap = "left", "fold", False
        for row in comparison.differences:
            style = "yellow" if row.essential else ""
            table.add_row(_text(row.name, style), _text(row.before), _text(row.after))
        console.print(table)
        console.print()


def _metrics(comparison: Comparison, pair: Pair, labels: tuple[str, str]) -> Padding:
    table = _table(pair.name, *labels, "change", f"{texts.confidence(comparison)} bounds")
    for metric in dict.fromkeys((pair.primary, *pair.changes)):
        row = pair.changes[metric]
        style = f"bold {STYLES[pair.verdict].removeprefix('bold ')}" if metric == pair.primary else ""
        figures = [display.figure(row.before), display.figure(row.after), texts.change(row), texts.bounds(row.ratio)]
        table.add_row(Text(metric, "bold" if style else ""), *figures[:2], *(Text(one, style) for one in figures[2:]))
    return Padding(table, (0, 0, 1, 0))


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column(_text(first), overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _verdict(pair: Pair, console: Console, named: bool) -> None:
    word = texts.verdict(pair)
    name = f"{pair.name}: " if named else ""
    units = f", {texts.units(pair)}" if pair.is_sound else ""
    style = STYLES["not compared" if not pair.is_sound else pair.verdict]
    console.print(Text.assemble((word, style), _text(f"  {name}{texts.why(pair)}"), (units, "dim")))


def _gate(judged: Judged, console: Console, named: bool) -> None:
    name = f"{judged.pair.name}: " if named else ""
    said = f"  {judged.gate.text}  {name}{texts.gate(judged)}"
    console.print(Text.assemble((judged.state, STYLES[judged.state]), _text(said)))
