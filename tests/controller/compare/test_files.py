"""The markdown and the JUnit file say what the terminal says."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadproof.compare import comparison, files, gates
from loadproof.compare.comparison import Comparison
from loadproof.compare.gates import Judged
from tests.controller import synthetic
from tests.controller.compare import campaigns


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Comparison], list[Judged]]:
    place = tmp_path_factory.mktemp("judged")
    slow = [campaigns.made(seed, slower=1.1) for seed in range(21, 26)]
    new = campaigns.campaign(place / "new", slow, name="a|b")
    found = comparison.compare([campaigns.repeats(place / "base", 1), new])
    return found, gates.judge(found, gates.read_gates(["p50_ms<=+30%", "throughput_rps>=-3%", "p50_ms<=+9%"]))


def test_markdown_opens_with_the_verdict_and_its_tables_are_whole(
    judged: tuple[list[Comparison], list[Judged]],
) -> None:
    text = files.markdown(*judged)
    assert re.search(r"^- 🔴 \*\*worse\*\* quick / a\\\|b: throughput_rps -\d", text, re.MULTILINE)
    for words in ("🔴 broken | `throughput_rps>=-3%`", "🟢 kept | `p50_ms<=+30%`", "⚪ no evidence | `p50_ms<=+9%`"):
        assert words in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1, block
    assert text.index("worse") < text.index("<details>") < text.index("| mean_ms |")


def test_junit_has_a_case_a_gate(judged: tuple[list[Comparison], list[Judged]]) -> None:
    (suite,) = ElementTree.fromstring(files.junit(*judged))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3", "failures": "1", "errors": "0", "skipped": "1"
    }  # fmt: skip
    outcomes = {str(case.get("name")).split(" ")[0]: [child.tag for child in case] for case in suite}
    assert outcomes == {
        "p50_ms<=+30%": ["system-out"],
        "throughput_rps>=-3%": ["failure", "system-out"],
        "p50_ms<=+9%": ["skipped", "system-out"],
    }


def test_junit_without_gates_has_a_case_a_pair_and_errors_where_nothing_can_be_trusted(tmp_path: Path) -> None:
    bad = campaigns.made(3)
    synthetic.fail(bad, 3)
    runs = [campaigns.made(1), campaigns.made(1, clients=2)]
    a = synthetic.campaign(tmp_path / "a", [("x", runs[0]), ("y", runs[1])])
    b = synthetic.campaign(tmp_path / "b", [("x", bad), ("y", runs[1])])
    (suite,) = ElementTree.fromstring(files.junit(comparison.compare([a, b]), []))
    assert [[child.tag for child in case] for case in suite] == [["error", "system-out"], ["system-out"]]
