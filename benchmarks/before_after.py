"""What a change costs the load generator: another checkout's CPU per request and this one's, in interleaved pairs.

    python -m benchmarks.before_after CHECKOUT [--pairs 10] [--out FILE.json]

CHECKOUT holds the revision before, with its .venv (scripts/setup all). The method is that of benchmarks.generator:
a closed loop of 64 clients in one worker process on the null server, recorded and verified. Of each pair the first is
now the one, now the other. The bound is the second lowest and second highest ratio of ten (97.9 % for the median, from
order statistics). Ends with 1 where the median ratio of a row is over 1.05. Ten pairs take twelve minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.generator import CLIENTS, PROTOCOLS, TRANSPORTS, WARMUP_S, WINDOW_S, show
from loadproof import environment

ROOT: Final = Path(__file__).parent.parent
RATIO_MAX: Final = 1.05
DRIVE: Final = """
import json, sys, tempfile
from pathlib import Path
try:
    from loadproof.calibration.drive import null_server
except ImportError:  # before 0.2.0
    from controller.calibration.drive import null_server
rows, warmup_s, window_s = json.loads(sys.argv[1])
with tempfile.TemporaryDirectory() as place, null_server(Path(place)) as server:
    print(json.dumps([server.drive(row, warmup_s, window_s).cpu_us_per_request for row in rows]))
"""


def take(checkout: Path) -> dict[str, float]:
    """CPU in us a request of each protocol and transport, once."""
    rows = [{"protocol": p, "transport": t, "clients": CLIENTS} for p in PROTOCOLS for t in TRANSPORTS]
    command = [str(checkout / ".venv/bin/python"), "-c", DRIVE, json.dumps([rows, WARMUP_S, WINDOW_S])]
    done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True, timeout=300)
    return {f"{r['protocol']} {r['transport']}": us for r, us in zip(rows, json.loads(done.stdout), strict=True)}


def judge(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> list[dict[str, Any]]:
    """A row for each protocol and transport: both medians, and the ratio with its bounds."""
    rows = []
    for name in pairs[0][0]:
        ratios = sorted(after[name] / before[name] for before, after in pairs)
        edge = 1 if len(ratios) >= 10 else 0
        rows.append(
            {
                "protocol and transport": name,
                "before_us": round(median(before[name] for before, _ in pairs), 2),
                "after_us": round(median(after[name] for _, after in pairs), 2),
                "ratio": round(median(ratios), 3),
                "low": round(ratios[edge], 3),
                "high": round(ratios[-1 - edge], 3),
                "holds": median(ratios) <= RATIO_MAX,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after", description=str(__doc__).splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    began_s, pairs = time.monotonic(), []
    for number in range(chosen.pairs):
        order = (chosen.checkout.resolve(), ROOT) if number % 2 == 0 else (ROOT, chosen.checkout.resolve())
        found = {checkout: take(checkout) for checkout in order}
        pairs.append((found[chosen.checkout.resolve()], found[ROOT]))
        print(f"pair {number + 1} of {chosen.pairs}", file=sys.stderr, flush=True)
    rows = judge(pairs)
    show(rows)
    holds = all(row["holds"] for row in rows)
    print(f"before_after: {'holds' if holds else 'DOES NOT HOLD'} ({time.monotonic() - began_s:.0f} s)")
    if chosen.out:
        revisions = {"before": environment.revision(chosen.checkout), "after": environment.revision(ROOT)}
        content: dict[str, Any] = {"schema": 1, "proof": "before_after", "date": time.strftime("%Y-%m-%d"), **revisions}
        content |= {
            "environment": environment.record(),
            "holds": holds,
            "most": RATIO_MAX,
            "rows": rows,
            "pairs": pairs,
        }
        chosen.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
