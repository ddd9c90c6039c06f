"""What the terminal shows while a campaign runs: phase, time left, live throughput and errors."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from loadproof import escapes
from loadproof_clients.spec import Measure

Event = dict[str, Any]


class Terminal(Console):
    """A console whose reader may go away, as `| head -1` does: from then on it says nothing, and nothing is raised."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:  # a terminal that hung up, a file on a full disk
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):  # what the file still holds is not to fail at the program's end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)


class View:
    """A live line for each run on a terminal; on a pipe, one plain line for each stage of a run.

    A terminal that is closed meanwhile raises nothing here: what was measured is still to be saved.
    """

    def __init__(self, console: Console, runs: int) -> None:
        self._console, self._runs, self._number = console, runs, 0
        self._live = console.is_terminal
        self._stage = ""
        self._task: TaskID | None = None
        self._measure = Measure()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[live]}"),
            console=console,
            disable=not self._live,
            transient=True,
        )

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._progress.stop()

    def begin(self, name: str, measure: Measure) -> None:
        """A run starts."""
        self._number += 1
        self._measure, self._name, self._stage = measure, name, ""
        with contextlib.suppress(OSError):
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(self._title("starting"), total=None, live="")

    def stage(self, text: str) -> None:
        """A stage without a known length."""
        self._show(text, None, None, "")

    def live(self, event: Event) -> None:
        """A progress event of the load."""
        measure = self._measure
        phase, elapsed = str(event["phase"]), float(event["elapsed_s"])
        text = {"warmup": "warming up", "measure": "measuring", "drain": "draining"}.get(phase, phase)
        figures = f"{event['throughput_rps']:,.0f} req/s  {event['sent']:,} sent"
        for key in ("failed", "wrong"):
            if event[key]:
                figures += f"  [bold red]{event[key]:,} {key}[/]"
        total = measure.warmup_s + measure.duration_s
        self._show(text, total, min(elapsed, total), figures)

    def _title(self, text: str) -> str:
        which = f"run {self._number}/{self._runs} " if self._runs > 1 else ""
        return f"{which}[bold]{escape(escapes.terminal(self._name))}[/]: {escape(escapes.terminal(text))}"

    def _show(self, text: str, total: float | None, done: float | None, figures: str) -> None:
        with contextlib.suppress(OSError):
            if self._task is not None:
                self._progress.update(
                    self._task, description=self._title(text), total=total, completed=done or 0, live=figures
                )
            if not self._live and text != self._stage:
                self._console.print(self._title(text), highlight=False)
        self._stage = text
