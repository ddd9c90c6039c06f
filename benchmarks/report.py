"""How large is the report of forty runs, and how much longer than an empty plotly page does it take to open?

`python -m benchmarks.report [--pairs N] [--out FILE]` renders a campaign of forty made-up configurations, and opens its
report and a page that has plotly.js and one empty chart, in turn, in one headless Chromium: from the navigation until
the page is loaded and a chart is drawn. The limits are 8 MB, and three times as long (medians).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from plotly.offline import get_plotlyjs

from benchmarks import proof
from loadproof import analyse, report
from tests.browser import Page, browser
from tests.controller import synthetic

RUNS: Final = 40
BYTES_MAX: Final = 8_000_000
RATIO_MAX: Final = 3.0
DRAWN: Final = "document.readyState === 'complete' && document.querySelector('.js-plotly-plot .main-svg') !== null"
EMPTY: Final = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><div id="chart"></div>
<script>%s</script><script>Plotly.newPlot("chart", [], {});</script>"""


def make(campaign: Path) -> Path:
    """The report of forty different configurations."""
    runs = []
    for number in range(RUNS):
        of = synthetic.spec(clients=2 + number % 8)
        of["server"] = {**of["server"], "streams": 1 + number // 8}
        name = f"streams={1 + number // 8}, clients={2 + number % 8}"
        runs.append((name, synthetic.make(number, service_ms=10.0 + number % 8, of=of)))
    analyse.campaign(synthetic.campaign(campaign, runs))
    report.render(campaign)
    return campaign / "report.html"


def seconds_to_open(page: Page, path: Path) -> float:
    page.call("Page.navigate", url="about:blank")
    begun = time.perf_counter()
    page.call("Page.navigate", url=path.as_uri())
    page.wait_for(DRAWN, pause_s=0.005)
    return time.perf_counter() - begun


def measure(folder: Path, pairs: int) -> dict[str, Any]:
    """The first opening of each is not counted: it reads the files."""
    (folder / "empty.html").write_text(EMPTY % get_plotlyjs())
    ours, empty = make(folder / "campaign"), folder / "empty.html"
    seconds: dict[str, list[float]] = {"report": [], "empty": []}
    with browser(folder / "profile") as page:
        for number in range(pairs + 1):
            for name, path in (("report", ours), ("empty", empty)):
                taken = seconds_to_open(page, path)
                if number:
                    seconds[name].append(round(taken, 4))
        complaints = page.complaints
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "runs": RUNS,
        "bytes": ours.stat().st_size,
        "seconds": seconds,
        "ratio": round(medians["report"] / medians["empty"], 2),
        "complaints": complaints,
    }


def main() -> int:
    parser = proof.options("report", __doc__)
    parser.add_argument("--pairs", type=int, default=15)
    arguments, machine = parser.parse_args(), proof.machine()
    with tempfile.TemporaryDirectory(prefix="loadproof-report-") as folder:
        found = measure(Path(folder), arguments.pairs)
    found["holds"] = found["bytes"] < BYTES_MAX and found["ratio"] <= RATIO_MAX and not found["complaints"]
    for name, taken in found["seconds"].items():
        print(f"{name:<8} opens in {statistics.median(taken):.3f} s ({min(taken):.3f} to {max(taken):.3f})")
    print(f"{found['bytes'] / 1e6:.2f} MB; {found['ratio']} times an empty plotly page's time")
    proof.write(arguments.out, "report", machine, **found)
    print(f"report: {'holds' if found['holds'] else 'does not hold'}")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
