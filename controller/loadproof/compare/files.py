"""A comparison for other programs' readers: markdown for a pull request, JUnit XML for continuous integration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

from loadproof.compare import texts
from loadproof.compare.comparison import Comparison, Pair
from loadproof.compare.gates import Judged
from loadproof.escapes import markdown as escaped
from loadproof.escapes import markdown_code as code
from loadproof.escapes import xml
from loadproof.report import display

MARKS: Final = {"better": "🟢", "kept": "🟢", "worse": "🔴", "broken": "🔴", "no evidence": "⚪"}

_OUTCOMES: Final = {"kept": None, "broken": "failure", "no evidence": "skipped"}


def markdown(comparisons: Sequence[Comparison], judged: Sequence[Judged]) -> str:
    """The verdict first; all metrics and what differs are folded away."""
    parts = [_markdown(one, [gate for gate in judged if gate.comparison is one], judged) for one in comparisons]
    return "\n\n".join(parts) + "\n"


def _markdown(comparison: Comparison, gates: Sequence[Judged], judged: Sequence[Judged]) -> str:
    before, after = comparison.before, comparison.after
    blocks = [f"### Loadproof: {code(after.name)} beside {code(before.name)}", "\n".join(map(_line, comparison.pairs))]
    if gates:
        rows = [
            [f"{MARKS[one.state]} {one.state}", code(one.gate.text), escaped(one.pair.name), texts.gate(one)]
            for one in gates
        ]
        blocks.append(_table(["gate", "", "run", f"change ({texts.confidence(comparison)} bounds)"], rows))
    blocks += [f"> {escaped(warning)}" for warning in dict.fromkeys(texts.warnings(comparison, judged))]
    head = ["", "A", "B", "change", f"{texts.confidence(comparison)} bounds"]
    details = [
        f"A: {code(before.name)}, {escaped(texts.side(before))}. B: {code(after.name)}, {escaped(texts.side(after))}."
    ]
    for pair in comparison.pairs:
        details += [f"**{escaped(pair.name)}**, {texts.units(pair)}", _table(head, _metrics(pair))]
    if comparison.differences:
        rows = [[escaped(text) for text in (row.name, row.before, row.after)] for row in comparison.differences]
        details.append(_table(["differs", "A", "B"], rows))
    blocks.append("<details><summary>All metrics, and what differs</summary>")
    return "\n\n".join([*blocks, *details, "</details>"])


def _line(pair: Pair) -> str:
    mark = MARKS[pair.verdict] if pair.is_sound else MARKS["broken"]
    return f"- {mark} **{texts.verdict(pair)}** {escaped(pair.name)}: {texts.why(pair)}; {texts.units(pair)}"


def _metrics(pair: Pair) -> list[list[str]]:
    return [
        [name, display.figure(row.before), display.figure(row.after), texts.change(row), texts.bounds(row.ratio)]
        for name, row in pair.changes.items()
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` are markdown already."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def junit(comparisons: Sequence[Comparison], judged: Sequence[Judged]) -> str:
    """A test case for each gate on each pair, or for each pair where there are no gates.

    A broken gate is a failure, a pair without a run to be trusted an error, no evidence is skipped: most programs that
    read it show that as neither. Form: the JUnit schema of Jenkins' xUnit plugin.
    """
    root = ElementTree.Element("testsuites", name="loadproof compare")
    for comparison in comparisons:
        suite = ElementTree.SubElement(
            root, "testsuite", name=xml(f"{comparison.after.name} / {comparison.before.name}")
        )
        gates = [one for one in judged if one.comparison is comparison]
        for one in gates:
            _case(suite, f"{one.gate.text} {one.pair.name}", one.pair, _OUTCOMES[one.state], texts.gate(one))
        for pair in comparison.pairs if not gates else ():
            _case(suite, f"{pair.primary} {pair.name}", pair)
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(name, str(sum(1 for _ in suite.iter(tag))))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, name: str, pair: Pair, outcome: str | None = None, message: str = "") -> None:
    case = ElementTree.SubElement(suite, "testcase", classname="loadproof.compare", name=xml(name))
    said = xml(f"{texts.verdict(pair)}: {texts.why(pair)}; {texts.units(pair)}")
    if not pair.is_sound:
        ElementTree.SubElement(case, "error", message=said)
    elif outcome:
        ElementTree.SubElement(case, outcome, message=xml(message))
    ElementTree.SubElement(case, "system-out").text = said
