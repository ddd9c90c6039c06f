"""README tells of every reason under its own severity, of every plan that ships, and of nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from loadproof.analyse.checks import REASONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def codes_of(severity: str) -> list[str]:
    """The codes in the table whose head is the severity."""
    table = README.partition(f"| {severity} | when |\n")[2].partition("\n\n")[0]
    return [code for row in table.splitlines() for code in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_every_reason_stands_under_its_severity() -> None:
    for severity in ("INVALID", "FLAGGED"):
        assert sorted(codes_of(severity)) == sorted(one.code for one in REASONS if one.severity == severity)


def test_the_recipes_name_files_that_are_there() -> None:
    text = (ROOT / "docs/extending.md").read_text().replace("/tfs/", "/kserve/")  # the recipe's example
    named = set(re.findall(r"\b((?:clients|controller|server|tests|docs)/[\w./-]*\w)", text))
    assert len(named) > 20 and {name for name in named if not (ROOT / name).exists()} == set()


def test_what_it_names_is_there() -> None:
    named = set(re.findall(r"\b((?:plans|scripts|docs|benchmarks)/[\w./-]*\w)", README))
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert {f"plans/{path.name}" for path in ROOT.glob("plans/*.toml")} - named <= {
        "plans/magika.toml",
        "plans/ocr.toml",
    }
