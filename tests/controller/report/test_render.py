"""The report: one file that needs no network, the same each time, and readable whatever became of the runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadproof import analyse, report
from tests.controller import synthetic
from tests.controller.synthetic import Made

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def rendered(directory: Path, runs: Sequence[tuple[str, Made | None]]) -> tuple[str, str]:
    analyse.campaign(synthetic.campaign(directory, runs))
    report.render(directory)
    return (directory / "report.html").read_text(), (directory / "report.md").read_text()


def failing() -> Made:
    made = synthetic.make(2, of=synthetic.spec(clients=2))
    synthetic.fail(made, 3)
    return made


class Loads(HTMLParser):
    """Collects what a browser would fetch, and the page's text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        wanted = ("src", "srcset", "data", "poster") + (("href",) if tag == "link" else ())
        self.fetched += [value or "" for name, value in attributes if name in wanted]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.fetched += re.findall(r"@import[^;]*|url\([^)]*\)", data)
        elif self._inside != "script":
            self.text.append(data)


def test_one_file_holds_everything(tmp_path: Path) -> None:
    page, _ = rendered(tmp_path, [("one", synthetic.make())])
    assert Loads(page).fetched == ["data:,"]
    assert len(page.encode()) < 6_000_000
    assert page.count("plotly.js v") == 1


def test_the_same_directory_gives_the_same_bytes(tmp_path: Path) -> None:
    first = rendered(tmp_path, [("one", synthetic.make()), ("two", failing())])
    report.render(tmp_path)
    assert ((tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()) == first


def test_a_directory_without_a_summary_is_summarised_first(tmp_path: Path) -> None:
    first = rendered(tmp_path, [("one", synthetic.make())])
    (tmp_path / "summary.json").unlink()
    report.render(tmp_path)
    assert ((tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()) == first


def test_both_reports_open_with_the_verdict_its_reasons_and_their_cures(tmp_path: Path) -> None:
    page, text = rendered(tmp_path, [("one", failing())])
    said = " ".join(" ".join(Loads(page).text).split())
    for words in ("INVALID", "3 of 2,", "UNAVAILABLE 3", "Read logs/server.log"):
        assert words in said and words in text
    assert said.index("UNAVAILABLE 3") < said.index("p99 latency")
    assert "# quick: INVALID" in text.splitlines()[0]


def test_each_reason_tells_whether_it_makes_the_run_invalid_or_only_flags_it(tmp_path: Path) -> None:
    def harmed() -> Made:
        made = failing()
        made.generator["cpu_percent"][:] = 96.0
        return made

    page, text = rendered(tmp_path, [("one", harmed())])
    said = " ".join(" ".join(Loads(page).text).split())
    assert said.index("INVALID 3 of") < said.index("FLAGGED A load worker used 96 % of a core")
    assert "**FLAGGED** `generator_saturated`" in text


def test_figures_stand_in_both_reports_as_in_the_summary(tmp_path: Path) -> None:
    page, text = rendered(tmp_path, [("one", synthetic.make())])
    said = " ".join(" ".join(Loads(page).text).split())
    for words in ("475", "8.01", "17.4", "15.1 to 21.3", "5,793", "Example CPU", "4 clients in 2 processes"):
        assert words in said and words in text


def test_a_report_says_which_loop_it_was_and_from_when_latency_runs(tmp_path: Path) -> None:
    opened = synthetic.make(of=synthetic.spec(arrivals="poisson", rate_rps=200.0))
    page, text = rendered(tmp_path / "open", [("one", opened)])
    said = " ".join(" ".join(Loads(page).text).split())
    for words in ("open loop, poisson 200/s", "Latency runs from the planned time", "offered"):
        assert words in said and words in text
    assert "Open loop" in said and "Closed loop" not in said and "service latency" in said
    page, text = rendered(tmp_path / "closed", [("one", synthetic.make())])
    said = " ".join(" ".join(Loads(page).text).split())
    assert "closed loop" in text and "Closed loop" in said and "Open loop" not in said and "| offered |" not in text


def test_every_request_stands_in_the_report_by_its_name(tmp_path: Path) -> None:
    page, text = rendered(tmp_path, [("one", failing())])
    said = " ".join(" ".join(Loads(page).text).split())
    for words in ("failed: UNAVAILABLE", "answered right"):
        assert words in said and words in text


def test_markdown_tables_are_whole(tmp_path: Path) -> None:
    opened = synthetic.make(2, of=synthetic.spec(arrivals="poisson", rate_rps=200.0))
    _, text = rendered(tmp_path, [("a|b", synthetic.make()), ("two", opened), ("three", failing())])
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1, block
    assert len(re.findall(r"^\| (client|server) \|", text, re.MULTILINE)) == 6
    assert "\n\n\n" not in text


def test_a_name_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    page, _ = rendered(tmp_path, [(evil, synthetic.make()), ("two", synthetic.make(2, of=synthetic.spec(clients=2)))])
    assert evil not in page and "<script>alert" not in page


def test_what_is_left_of_broken_runs_is_reported(tmp_path: Path) -> None:
    campaign = synthetic.campaign(tmp_path, [("a", synthetic.make()), ("b", synthetic.make(2)), ("c", None)])
    for name in ("requests.parquet", "run.json"):
        (tmp_path / "runs/002-b" / name).unlink()
    analyse.campaign(campaign)
    report.render(campaign)
    text = (tmp_path / "report.md").read_text()
    assert "1 of 3 planned runs were not begun" in text and "The run ended before its records were written" in text


def test_a_campaign_without_runs_is_a_report_too(tmp_path: Path) -> None:
    page, text = rendered(tmp_path, [("a", None)])
    assert "No run was begun" in page and text.startswith("# quick: INVALID")


def test_forty_runs_stay_small(tmp_path: Path) -> None:
    """Of forty configurations, so that each stands in the chart of them all; benchmarks/report.py opens such a one."""
    of = [synthetic.spec(clients=2 + number % 2, seed=number) for number in range(40)]
    runs = [(f"run {number}", synthetic.make(service_ms=20.0, of=spec)) for number, spec in enumerate(of)]
    page, _ = rendered(tmp_path, runs)
    assert page.count('"eligible":true') == 40 and len(page.encode()) < 8_000_000


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.CompletedProcess[str]]:
    """A run's report as a browser without a network made it: the page's final HTML and the browser's console."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    directory = tmp_path_factory.mktemp("seen")
    rendered(directory, [("one", synthetic.make())])
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=8000"]
    offline = [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={directory / 'profile'}",
        "--window-size=1280,4000",
    ]
    yield subprocess.run(
        [CHROMIUM, *options, *offline, "--dump-dom", (directory / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_a_browser_draws_every_chart_and_has_nothing_to_complain_about(seen: subprocess.CompletedProcess[str]) -> None:
    drawn = re.findall(
        r'id="([a-z]+-0)"[^>]*class="[^"]*js-plotly-plot|class="[^"]*js-plotly-plot[^"]*" id="([a-z]+-0)"', seen.stdout
    )
    assert {first or second for first, second in drawn} == {
        f"{name}-0" for name in ("latency", "curve", "time", "witnesses", "spent", "stages")
    }
    assert [line for line in seen.stderr.splitlines() if "CONSOLE" in line] == []
