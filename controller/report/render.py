"""Renders report.html (one self-contained file) and report.md from a campaign's directory and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from controller import analyse, rundir
from controller.analyse.population import Records, Window
from controller.report import display, plots

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
        "the drain. A run whose counts do not reconcile is INVALID.",
    ),
    (
        "Latency",
        "From the moment a client sends to the moment it has the whole answer, in milliseconds, over all good answers "
        "to requests that were sent inside the window, of all workers pooled. Percentiles are nearest-rank: each is a "
        "latency that was measured. Failed and wrong answers are counted apart and never enter.",
    ),
    (
        "Bounds",
        "Distribution-free, from order statistics, at 99 % confidence and for independent requests. A percentile with "
        "too few requests behind it is not printed (MLPerf's early stopping: p90 64, p95 130, p99 662, p99.9 6,636).",
    ),
    ("Throughput", "Good answers that arrived inside the window, over its length."),
    (
        "Closed loop",
        "Each client waits for its answer before it sends the next: a server that slows down is offered less load. "
        "The figures hold for this many clients, not for a rate of arrivals.",
    ),
    (
        "Where the time goes",
        "Differences between the witnesses' means: the balancer's part holds the network to the server; server queue "
        "and inference are the server's own histogram sums.",
    ),
)


def render(directory: Path) -> None:
    """Writes report.html and report.md; the same directory gives the same bytes, with or without a network.

    Raises RunDirectoryError where the directory is no campaign's or a file in it is broken.
    """
    summary = rundir.read_summary(directory) or analyse.campaign(directory)
    runs = summary["runs"]
    facts = {
        "campaign": {"environment": {}, **summary["campaign"]},
        "runs": runs,
        "repeats": summary.get("repeats", []),
        "verdict": display.verdict(runs),
        "tally": Counter(run["verdict"] for run in runs),
        "judged": [run for run in runs if run["reasons"]],
        "parts": display.PARTS,
        "reading": READING,
    }
    figures = _figures(directory, runs)
    page = _templates(escape=True).get_template("report.html.j2")
    charts = {"charts": set(figures), "figures": _embed(figures), "plotly_js": Markup(get_plotlyjs())}
    rundir.write_text(rundir.report_html(directory), page.render(facts | charts))
    rundir.write_text(rundir.report_md(directory), _templates(escape=False).get_template("report.md.j2").render(facts))


def _figures(directory: Path, runs: Sequence[Mapping[str, Any]]) -> dict[str, plots.Chart]:
    """Every chart by the id of its element; a run without good answers has none of its own."""
    figures: dict[str, plots.Chart] = {}
    for index, run in enumerate(runs):
        figures |= {f"{name}-{index}": figure for name, figure in _run_figures(directory, run).items()}
    explained = [run for run in runs if _explained(run)]
    if len(runs) > 1:
        if explained:
            figures["spent"] = plots.time_spent(explained)
        if any(run["latency_ms"]["p50"] is not None for run in runs):
            figures["overview"] = plots.overview(runs)
    return figures


def _run_figures(directory: Path, run: Mapping[str, Any]) -> dict[str, plots.Chart]:
    records = Records(directory / run["directory"])
    latency_ns = np.sort(records.latency_ns(records.measured & records.good))
    if not len(latency_ns):
        return {}
    table = rundir.read_generator(directory / run["directory"])
    generator = {name: table[name].to_numpy() for name in ("time_s", "cpu_percent")}
    window = Window.of(run["window"]["warmup_s"] or 0, run["window"]["duration_s"] or 0)
    return {
        "latency": plots.distribution(latency_ns),
        "curve": plots.percentile_curve(latency_ns),
        "time": plots.over_time(records, window, generator),
        "witnesses": plots.witnesses(run),
        **({"spent": plots.time_spent([run])} if _explained(run) else {}),
    }


def _explained(run: Mapping[str, Any]) -> bool:
    return run["breakdown_ms"]["client_network"] is not None


def _embed(figures: Mapping[str, plots.Chart]) -> Markup:
    """The figures as JSON that is safe inside a script element: no `<` can end it or open a comment."""
    text = json.dumps(figures, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _templates(escape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    named = ("count", "figure", "bounds", "of_witness", "agreement", "load", "settings", "environment")
    environment.filters |= {name: getattr(display, name) for name in named}
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment
