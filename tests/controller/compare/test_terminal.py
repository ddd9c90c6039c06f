"""A comparison on the terminal: nothing is cut off, and a pipe gets plain text."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadproof.compare import comparison, gates, terminal
from loadproof.compare.comparison import Comparison
from tests.controller import synthetic
from tests.controller.compare import campaigns

GATES = ["p99_ms<=+1%", "throughput_rps>=-3%", "p50_ms<=+30%"]


def newer(facts: dict[str, Any]) -> None:
    facts["environment"]["packages"] |= {"openvino": "2026.5.0"}


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: pytest.TempPathFactory) -> list[Comparison]:
    place = tmp_path_factory.mktemp("slowed")
    base = campaigns.repeats(place / "base", 1, duration_s=2.5)
    return comparison.compare([base, campaigns.repeats(place / "new", 21, slower=1.1, duration_s=2.5, change=newer)])


def shown(comparisons: list[Comparison], width: int, color: bool = False, texts: list[str] | None = None) -> str:
    out = io.StringIO()
    system: Any = "standard" if color else None
    console = Console(file=out, width=width, force_terminal=color, color_system=system)
    terminal.show(comparisons, gates.judge(comparisons, gates.read_gates(texts or [])), console)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 140])
def test_every_figure_fits_the_terminal(slowed: list[Comparison], width: int) -> None:
    text = shown(slowed, width, texts=GATES)
    assert max(len(line) for line in text.splitlines()) <= width and "…" not in text
    (pair,) = slowed[0].pairs
    for metric, row in pair.changes.items():
        (line,) = (line for line in text.splitlines() if re.match(rf"{metric} .*[%—]", line) and "(" not in line)
        assert row.ratio is None or line.count("%") == 2, line


def test_the_verdict_stands_with_its_bounds_and_units_and_the_gates_after_it(slowed: list[Comparison]) -> None:
    text = " ".join(shown(slowed, 300, texts=GATES).split())
    assert "worse throughput_rps -" in text and "5 repeats a side" in text
    assert "broken throughput_rps>=-3% -" in text and "kept p50_ms<=+30% +" in text
    assert "openvino 2026.4.1 2026.5.0" in text


def test_colours_are_for_terminals_only(slowed: list[Comparison]) -> None:
    assert "\x1b[" not in shown(slowed, 80)
    assert "\x1b[1;31mworse" in shown(slowed, 80, color=True)


def test_what_a_reader_has_to_know_first_is_a_warning(tmp_path: Path) -> None:
    bad = campaigns.made(3, clients=2)
    synthetic.fail(bad, 3)
    good = {name: campaigns.made(1, clients=count) for name, count in (("clients=2", 2), ("clients=4", 4), ("only", 3))}
    a = synthetic.campaign(tmp_path / "a", list(good.items()))
    b = synthetic.campaign(tmp_path / "b", [("clients=2", bad), ("clients=4", campaigns.made(2))])
    text = " ".join(shown(comparison.compare([a, b]), 300, texts=["p99_ms<=+5%"]).split())
    assert f"INVALID runs are left out: {b}: clients=2" in text
    assert f"only in {a}: only" in text
    assert "not compared clients=2: 1 and 0 runs whose figures can be trusted" in text
    assert "within-run: seconds of 1 and 1 runs" in text and "give 5 repeats a side" in text
    assert "no evidence that these gates are kept or broken: p99_ms<=+5%" in text


def test_a_name_is_not_read_as_markup(tmp_path: Path) -> None:
    a = synthetic.campaign(tmp_path / "a", [("[bold]x[/nope]", campaigns.made(1))])
    assert "[bold]x[/nope]" in shown(comparison.compare([a, a]), 120)
