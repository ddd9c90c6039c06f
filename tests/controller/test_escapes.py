"""What a stranger says is seen in every format, and does nothing there."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from rich.text import Text

from loadproof import analyse, escapes, report
from loadproof.analyse.schema import Summary
from loadproof.compare import comparison, files
from loadproof.compare import terminal as compare_terminal
from loadproof.progress import View
from loadproof.report import terminal
from tests.controller import synthetic
from tests.controller.compare import campaigns

EVIL = (
    '<script>alert(1)</script><img src=x onerror="alert(2)"> ![p](http://evil/p.png) [l](javascript:alert(3)) `c` '
    "**b** "
    "| cell | \x1b[31mred\x1b]8;;http://evil\x07link \x9b2J \x00\x08 [bold red]markup[/] @everyone \u202etxet\u202c"
    " \ud800 </table> &lt; <!-- $x$ ~~s~~ __u__"
)
TAGS = {"p", "code", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "strong"}
TAGS |= {"blockquote", "details", "summary", "hr"}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


def html(text: str) -> str:
    """As GitHub renders it, raw HTML included."""
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


def evil_summary(place: Path, name: str = "one") -> Path:
    """A campaign whose server's words stand wherever words of a server can."""
    made, words = synthetic.make(), EVIL.replace("\ud800", "")  # which no file takes
    made.facts["events"] = [{"time_s": 1.0, "code": "reference_failed", "message": words}]
    made.facts["notes"] = [words]
    made.facts["server"] = {**made.facts["server"], "about": {"name": words, "version": words}}
    directory = synthetic.campaign(place, [(name, made)])
    analyse.campaign(directory)
    return directory


@pytest.mark.parametrize("lead", ["", "# ", "- ", "+ ", "1. ", "1) ", "> ", "```\n", "~~~", "    ", "---\n", "=== "])
def test_markdown_of_a_stranger_is_one_paragraph_of_plain_text(lead: str) -> None:
    page = html(escapes.markdown(f"{lead}{EVIL}"))
    assert Tags(page).tags == {"p"}, page
    assert "@everyone" not in page and "<script>alert" in escapes.visible(EVIL)
    assert Tags(html(f"- x {escapes.markdown_code(f'{lead}{EVIL}')}")).tags == {"ul", "li", "code"}


@pytest.mark.parametrize("text", ["load.max_answer_mb = 256", "p99_ms 12.3 to 12.5", "a/b-c (d): e, f; 50 %", "—"])
def test_our_own_words_stay_as_they_are(text: str) -> None:
    assert escapes.markdown(text) == escapes.terminal(text) == escapes.xml(text) == text


def test_nothing_controls_a_terminal_or_breaks_xml_or_a_file() -> None:
    everything = "".join(map(chr, (*range(0x3000), *range(0xD7F0, 0x10000), 0x1F600)))
    shown = escapes.visible(everything)
    assert len(shown) == len(everything) and "\t" in shown and "\n" in shown
    assert not {*map(chr, range(0x20))} - {"\t", "\n"} & set(shown)
    assert not set("\x1b\x9b\x7f\u202e\u2066\ud800\ufffe\ufeff") & set(shown)
    assert ElementTree.fromstring(f"<x>{escapes.xml(everything).replace('&', '').replace('<', '')}</x>").text
    shown.encode()


def test_a_report_shows_what_the_server_says_and_does_none_of_it(tmp_path: Path) -> None:
    directory = evil_summary(tmp_path)
    report.render(directory)
    text, page = ((directory / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert Tags(html(text)).tags <= TAGS
    assert "alert(1)" in text and "alert(1)" in page
    assert "<script>alert" not in page and "<img" not in page.partition("<script>")[0]
    for shown in (text, page):
        assert not set("\x1b\x9b\x00\x08\u202e") & set(shown.partition("<script>")[0])


def test_the_terminal_shows_what_the_server_says_and_obeys_none_of_it(tmp_path: Path) -> None:
    summary = analyse.read(evil_summary(tmp_path, name="a\x1b[2Jb"))
    assert isinstance(summary, Summary)
    out = io.StringIO()
    terminal.show(summary, Console(file=out, width=100, color_system=None))
    assert "alert(1)" in out.getvalue() and "[bold red]markup" in " ".join(out.getvalue().split())
    assert not set("\x1b\x9b\x00\x08\u202e\ud800") & set(out.getvalue())


def test_progress_shows_what_a_stranger_says_as_text() -> None:
    out = io.StringIO()
    with View(Console(file=out, width=300), 1) as view:
        view.begin("plan", view._measure)
        view.stage("sent away: [bold]\x1b[31mhost[/bold]")
    assert "[bold]\u241b[31mhost[/bold]" in out.getvalue()


def test_a_comparison_of_strangers_is_plain_text_in_every_format(tmp_path: Path) -> None:
    bad = tmp_path / "x`<img src=y>` \x1b[31m|@all"
    sides = [campaigns.repeats(tmp_path / "base", 1), campaigns.repeats(bad, 1)]
    found = comparison.compare(sides)
    text = files.markdown(found, [])
    assert Tags(html(text)).tags <= TAGS and "\x1b" not in text
    (suite,) = ElementTree.fromstring(files.junit(found, []))
    assert "\u241b[31m" in str(suite.get("name"))
    out = io.StringIO()
    compare_terminal.show(found, [], Console(file=out, width=200, color_system=None))
    assert "\x1b" not in out.getvalue()


def test_wrapping_keeps_its_styles_where_characters_are_replaced() -> None:
    out = io.StringIO()
    terminal.say(Console(file=out, width=40, color_system=None), Text.assemble(("bad", "red"), " \x1b[31mtext"))
    assert out.getvalue() == "bad \u241b[31mtext\n"
