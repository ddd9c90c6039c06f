"""Does `[search]` find the highest rate that keeps a limit? Against the truth server, whose queue says what it keeps.

    python -m benchmarks.search [--seeds N] [--out FILE.json]

Each case is a `loadproof run` with [search]: the server serves one request at a time by its own virtual clock,
SERVICE_MS each, alike or with 10 % noise; arrivals are constant or Poisson. The truth is the highest rate that keeps
the limit for a queue with the service times of the server's log (tests/truth/edge.py). It holds where each search ends
within 5 % of that. Other programs only ever let it find less: where it finds too little it may try again, ROUNDS in
all. Twenty minutes on a quiet machine.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks import proof
from tests.truth.edge import highest_rate_rps
from tests.truth.session import loadproof, truth_server

SERVICE_MS: Final = 3
LIMIT_MS: Final = 60
PERCENTILE: Final = 95
NOISE: Final = 0.1
SLO: Final = {f"p{PERCENTILE}_ms": LIMIT_MS}
Arrivals = Literal["constant", "poisson"]
ARRIVALS: Final[tuple[Arrivals, ...]] = ("poisson", "constant")
WITHIN: Final = 0.05
MEASURE: Final = {"warmup_s": 1, "duration_s": 6, "drain_s": 1}
SEARCH: Final = {"key": "load.rate_rps", "low": 200, "tolerance": 0.03, "tries": 4}
ROUNDS: Final = 2
TIMEOUT_S: Final = 900


@dataclass(frozen=True)
class Case:
    """One search; `seed` is that of the arrivals and of the server's noise."""

    arrivals: Arrivals
    noise: float
    seed: int


def cases(seeds: int) -> list[Case]:
    """Of constant arrivals without noise one seed is like the other."""
    every = itertools.starmap(Case, itertools.product(ARRIVALS, (NOISE, 0.0), range(1, seeds + 1)))
    return [one for one in every if one.arrivals == "poisson" or one.noise or one.seed == 1]


def measure(case: Case, place: Path) -> dict[str, Any]:
    """A row of the table: what was found beside what the server's own log says that it can keep."""
    flags = ["--delay-ms", str(SERVICE_MS), "--queue", "--noise", str(case.noise), "--seed", str(case.seed)]
    load = {"arrivals": case.arrivals, "clients": 8, "transport": "wire", "seed": case.seed}
    with truth_server(place / "log", *flags) as server:
        outcome = loadproof(server, place / "out", load, MEASURE, {"slo": SLO, "search": SEARCH}, TIMEOUT_S)
        service_s = server.service_s()
    true_rps = highest_rate_rps(case.arrivals, service_s, PERCENTILE / 100, LIMIT_MS / 1e3)
    found = outcome.summary["search"]
    return {
        "arrivals": case.arrivals,
        "noise": case.noise,
        "seed": case.seed,
        "capacity_rps": round(1 / float(service_s.mean()), 1),
        "true_rps": round(true_rps, 1),
        "found_rps": found["highest"],
        "fails_at_rps": found["fails_at"],
        "found_to_true": round((found["highest"] or 0) / true_rps, 3),
        "doubts": next((level["doubts"] for level in found["levels"] if level["value"] == found["fails_at"]), []),
        "levels": len(found["levels"]),
        "runs": sum(len(level["runs"]) for level in found["levels"]),
        "load_s": round(found["seconds"]),
        "exit_code": outcome.code,
    }


def until_it_holds(case: Case) -> dict[str, Any]:
    """The row of the last of at most ROUNDS searches, with what each of them found."""
    found: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as place:
            row = measure(case, Path(place))
        found.append(row["found_to_true"])
        if holds(row) or row["found_to_true"] > 1:
            break
    return {**row, "rounds": len(found), "found_each_round": found}


def holds(row: dict[str, Any]) -> bool:
    """Found within WITHIN of the truth."""
    return row["exit_code"] == 0 and abs(float(row["found_to_true"]) - 1) <= WITHIN


def main() -> int:
    parser = proof.options("search", __doc__)
    parser.add_argument("--seeds", type=int, default=2, help="of each kind")
    chosen = parser.parse_args()
    began_s, machine = time.monotonic(), proof.machine()
    rows = []
    for case in cases(chosen.seeds):
        rows.append(until_it_holds(case))
        print(rows[-1], file=sys.stderr, flush=True)
    kept = all(map(holds, rows))
    proof.show(rows)
    print(f"search: {'holds' if kept else 'DOES NOT HOLD'} ({time.monotonic() - began_s:.0f} s)")
    plan = {"service_ms": SERVICE_MS, "slo": SLO, "measure": MEASURE, "search": SEARCH}
    proof.write(chosen.out, "search", machine, limits={"within": WITHIN}, plan=plan, holds=kept, rows=rows)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
