"""Renders report.html (one self-contained file) and report.md from a campaign's directory and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from loadproof import analyse, escapes, rundir
from loadproof.analyse import RunSummary
from loadproof.report import display, figures, plots, spot

TEMPLATES: Final = Path(__file__).parent / "templates"

READING: Final = (
    (
        "Verdict",
        "VALID: no check found anything. FLAGGED: the figures stand, but something may have disturbed them. INVALID: "
        "they cannot be trusted, and the reasons say why and what to do.",
    ),
    (
        "Witnesses",
        "Client, balancer and server each count every request by themselves, from the first reference to the end of "
        "the drain. A run whose counts do not reconcile is INVALID. Their latencies run from the sent time.",
    ),
    (
        "Latency",
        "To the moment the client has the whole answer, in milliseconds, over all good answers to the requests of the "
        "window, of all workers pooled. Percentiles are nearest-rank: each is a latency that was measured. Failed and "
        "wrong answers are counted apart and never enter.",
    ),
    (
        "Bounds",
        "At 99 % confidence. Of percentiles: distribution-free, from order statistics, for independent requests. Of "
        "the throughput: from the answers of each second, wider as far as neighbouring seconds are alike. A percentile "
        "with too few requests behind it is not printed (MLPerf's early stopping: p90 64, p95 130, p99 662, p99.9 "
        "6,636), nor are bounds of a throughput over less than ten seconds.",
    ),
    ("Throughput", "Good answers that arrived inside the window, over its length."),
    (
        "Steadiness",
        "Three equal thirds of the window: steady, by perf_analyzer's rule, if the largest throughput and the largest "
        "mean latency are within 10 % of the smallest. The trends are Theil and Sen's slope over blocks of a second; "
        "only a large one that is surely there is held against the run.",
    ),
    (
        "Value and efficiency",
        "Inferences a second per unit of money: of the system's price, or of what it costs an hour. Inferences per "
        "joule, which are also inferences a second per watt: of all the power in the window, and of what is above the "
        "power at idle, measured before the run. RAPL counts processors and memory, not the whole machine.",
    ),
    (
        "Where the time goes",
        "Differences between the witnesses' means: the balancer's part is its own work and the network to the server; "
        "server queue and inference are the server's own histogram sums.",
    ),
)
LOOPS: Final = {
    "closed": (
        "Closed loop",
        "Each client waits for its answer before it sends the next, and latency runs from the sent time: a server that "
        "slows down is offered less load. The figures hold for this many clients, not for a rate of arrivals.",
    ),
    "open": (
        "Open loop",
        "Requests are sent at times planned ahead, whatever became of the earlier ones, and latency runs from the "
        "planned time: what waited for a slow server, or for the generator, has waited. Lateness is how much of it was "
        "the generator's: sent - planned.",
    ),
}


def render(directory: Path) -> None:
    """Writes report.html and report.md; the same directory gives the same bytes, with or without a network.

    Raises RunDirectoryError where the directory is no campaign's or a file in it is broken.
    """
    summary = analyse.read(directory) or analyse.campaign(directory)
    runs = summary.runs
    facts = {
        "campaign": summary.campaign,
        "runs": runs,
        "repeats": summary.repeats,
        "search": summary.search,
        "tune": summary.tune,
        "spot": summary.sweet_spot,
        "verdict": display.verdict(analyse.answering(summary)),
        "ceilings": any(run.ceiling for run in runs),
        "worth": any(run.value or run.energy for run in runs),
        "tally": Counter(run.verdict for run in runs),
        "judged": [run for run in runs if run.reasons],
        "parts": plots.PARTS,
        "reading": _reading(runs),
    }
    of_runs = [figures.of_run(directory, run, index) for index, run in enumerate(runs)]
    together = figures.of_campaign(summary)
    charts = {key: chart for one in (*of_runs, together) for key, chart in figures.charts(one).items()}
    drawn = {"of_runs": of_runs, "together": together, "figures": _embed(charts), "plotly_js": Markup(get_plotlyjs())}
    movable = _embed(spot.movable(summary.sweet_spot)) if summary.sweet_spot and "spot" in charts else None
    page = _templates(is_html=True).get_template("report.html.j2")
    rundir.write_text(rundir.report_html(directory), page.render(facts | drawn | {"movable": movable}))
    rundir.write_text(rundir.report_md(directory), _templates(is_html=False).get_template("report.md.j2").render(facts))


def _reading(runs: Sequence[RunSummary]) -> list[tuple[str, str]]:
    """The terms, with what is said of a loop only where a run has it."""
    kinds = {"open" if run.is_open else "closed" for run in runs}
    return [*READING, *(text for kind, text in LOOPS.items() if kind in kinds)]


def _embed(data: Mapping[str, object]) -> Markup:
    """Data as JSON that is safe inside a script element: no `<` can end it or open a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _templates(is_html: bool) -> jinja2.Environment:
    """Every expression of a template is escaped for its format, but for what is marked as safe."""
    plain = escapes.visible if is_html else escapes.markdown
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=is_html,
        finalize=lambda value: value if isinstance(value, Markup) else plain(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    named = ["count", "figure", "bounds", "of_witness", "agreement", "load", "loop", "anchor", "change"]
    named += ["settings", "environment", "answer", "sweet_spot", "tuning", "ceiling", "measured", "percentile"]
    environment.filters |= {name: getattr(display, name) for name in named}
    environment.filters["code"] = lambda text: Markup(escapes.markdown_code(str(text)))
    return environment
