"""The terminal's summary: nothing is cut off, and a pipe gets plain text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from loadproof import analyse
from loadproof.analyse import Summary
from loadproof.report import terminal
from tests.controller import synthetic


def shown(summary: Summary, width: int, color: bool = False) -> str:
    out = io.StringIO()
    terminal.show(
        summary, Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None)
    )
    return out.getvalue()


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    bad = synthetic.make(2, of=synthetic.spec(clients=8))
    synthetic.fail(bad, 3)
    synthetic.drop_rows(bad, 2)
    bad.spec["slo"] = {"p99_ms": 1.0}
    runs = [("load.clients=4", synthetic.make()), ("load.clients=8", bad), ("load.clients=16", None)]
    return analyse.campaign(synthetic.campaign(tmp_path, runs))


@pytest.mark.parametrize("width", [80, 120])
def test_every_figure_fits_the_terminal(summary: Summary, width: int) -> None:
    text = shown(summary, width)
    assert max(len(line) for line in text.splitlines()) <= width and "…" not in text
    for words in ("VALID", "INVALID", "4,748", "8.01", "12.3", "17.4", "p99 ms"):
        assert words in text


def test_reasons_come_with_their_cures_and_limits_with_their_figures(summary: Summary) -> None:
    text = shown(summary, 200)
    assert "UNAVAILABLE 3" in text and "Read logs/server.log" in text
    assert "2 lines of the balancer's log were lost" in text and "broken slo.p99_ms = 1, measured" in text
    assert "1 of 3 planned runs were not begun." in text


@pytest.mark.parametrize("width", [60, 80])
def test_what_is_wrapped_ends_without_spaces(summary: Summary, width: int) -> None:
    words = shown(summary, width).partition("load.clients=8\nwitnesses")[2]
    assert words and [line for line in words.splitlines() if line != line.rstrip()] == []


def test_a_long_name_has_a_line_of_its_own_above_its_figures(tmp_path: Path) -> None:
    name = "batch=8, nireq=4, streams=2, threads=2, precision=bf16"
    found = analyse.campaign(synthetic.campaign(tmp_path, [(name, synthetic.make()), ("b", synthetic.make())]))
    lines = shown(found, 80).splitlines()
    assert lines[1:4:2] == [name, "b"] and "4,748" in lines[2] and lines[0].split() == HEAD
    wide = shown(found, 140).splitlines()
    assert wide[0].split() == ["run", *HEAD] and name in wide[1] and "4,748" in wide[1]


HEAD = ["verdict", "sent", "ok", "failed", "wrong", "/", "s", "p50", "ms", "p95", "ms", "p99", "ms"]


def test_a_single_run_shows_that_its_witnesses_agree(tmp_path: Path) -> None:
    text = shown(analyse.campaign(synthetic.campaign(tmp_path, [("one", synthetic.make())])), 80)
    assert "witnesses agree: client 5,793 = balancer 5,793 = server 5,793" in text


def test_colours_are_for_terminals_only(summary: Summary) -> None:
    assert "\x1b[" not in shown(summary, 80) and "\x1b[1;31mINVALID" in shown(summary, 80, color=True)


def test_a_name_is_not_read_as_markup(tmp_path: Path) -> None:
    made = synthetic.make(of=synthetic.spec(clients=2))
    synthetic.fail(made, 1)
    text = shown(analyse.campaign(synthetic.campaign(tmp_path, [("[red]x[/red]", made), ("b", synthetic.make())])), 120)
    assert text.count("[red]x[/red]") == 2


def test_a_directory_without_a_summary_shows_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    terminal.show_directory(tmp_path, Console(file=out))
    assert out.getvalue() == ""
    analyse.campaign(synthetic.campaign(tmp_path, [("one", synthetic.make())]))
    terminal.show_directory(tmp_path, Console(file=out))
    assert "VALID" in out.getvalue()
