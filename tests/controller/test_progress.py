"""The live view: plain lines on a pipe, any name as it is, and a closed terminal stops nothing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from loadproof.progress import View
from loadproof_clients.spec import Measure

EVENT = {"phase": "measure", "elapsed_s": 1.0, "sent": 10, "failed": 1, "wrong": 0, "throughput_rps": 5.0}


class Closed(io.StringIO):
    """A terminal whose window is gone."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_on_a_pipe_each_stage_is_one_line_with_the_name_as_it_is() -> None:
    said = io.StringIO()
    with View(Console(file=said, width=100), 2) as view:
        view.begin("payload=images:[/tmp]", Measure())
        view.stage("starting the server")
        view.live(EVENT)
        view.live(EVENT)
    assert said.getvalue().splitlines() == [
        "run 1/2 payload=images:[/tmp]: starting the server",
        "run 1/2 payload=images:[/tmp]: measuring",
    ]


@pytest.mark.parametrize("live", [True, False])
def test_a_terminal_that_was_closed_stops_nothing(live: bool) -> None:
    with View(Console(file=Closed(), force_terminal=live), 1) as view:
        view.begin("run", Measure())
        view.stage("starting the server")
        view.live(EVENT)
