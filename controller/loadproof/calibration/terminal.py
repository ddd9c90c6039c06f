"""`loadproof doctor --calibrate`: reports what is being measured, then shows the table and what it is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadproof.calibration import cells, store
from loadproof.report.display import count, figure
from loadproof.report.terminal import say

# Below it, a worker that never had to wait for a client had no core for itself: the rest of the machine was in its way.
BUSY_PERCENT: Final = 85
MEANINGS: Final = (
    "ceiling: requests/s of one worker process (load.processes) at its busiest. A run that comes within 20 % of it is "
    "FLAGGED near_ceiling: more processes where cores are free, or the wire transport, take it further.",
    "floor: the latency of one client against a server that answers at once. A run of which this is over half the "
    "median is FLAGGED mostly_floor: it measured the generator more than the server.",
)
_HEADINGS: Final = ("API", "transport", "protocol", "ceiling / s", "CPU us/req", "floor p50 ms", "p99 ms")


def calibrate(console: Console) -> None:
    """Measures, keeps and shows it. Raises LoadproofError where the generator fails, OSError where nothing is kept."""
    with console.status("calibrating") as status:
        report = status.update if console.is_terminal else console.print
        rows = cells.calibrate(lambda text: report(f"calibrating: {text}"))
    where = store.write(rows)
    show(rows, console)
    console.print(Text(f"Kept in {where}: every later run on this machine is held to it."), soft_wrap=True)


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The table and what to do with it."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if number > 2 else "left", no_wrap=True)
    for one in rows:
        rate, cpu = (count(one[key]) for key in ("ceiling_rps", "cpu_us_per_request"))
        p50, p99 = ("too few" if (ms := one[key]) is None else figure(ms) for key in ("floor_p50_ms", "floor_p99_ms"))
        table.add_row(one["api"], one["transport"], one["protocol"], rate, cpu, p50, p99)
    console.print(table)
    console.print()
    for meaning in MEANINGS:
        say(console, Text(meaning))
    if held := [one for one in rows if one["cpu_percent"] < BUSY_PERCENT]:
        names = ", ".join(f"{one['transport']} {one['protocol']} ({one['cpu_percent']:.0f} %)" for one in held)
        said = (
            f"at its ceiling the worker had less than a core: {names}. Something else took the machine's time, or it "
        )
        said += "has few cores; calibrate again while nothing else runs."
        say(console, Text.assemble(("note: ", "yellow"), said))
