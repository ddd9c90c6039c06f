"""The long proofs of truth: every cell beside h2load and the server's log, the README's stall, ten thousand losses.

    python -m benchmarks.truth cells|stall|losses [--out FILE.json]

Prints a table, writes JSON with date and machine, and ends with 1 where a proof does not hold. `cells` takes up to
three rounds of each, about 20 minutes in all; `stall` two minutes; `losses` four.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import proof
from tests.truth.cells import (
    CELLS,
    P50_MS,
    P50_MS_TRITONCLIENT_GRPC,
    P99_SHARE,
    ROUNDS,
    Reading,
    measure,
    nearest_rank,
)
from tests.truth.losses import LOSSES, lose
from tests.truth.session import Floats, Joined, TruthServer, join, loadproof, truth_server

Proof = tuple[list[dict[str, Any]], bool]  # rows of the table, and whether it holds
CELL_S: Final = 8
STALL_S: Final = 20
LOSS_RATE_RPS: Final = 400
LOSS_S: Final = 6


def cells(place: Path) -> Proof:
    """Each cell at most ROUNDS times; the least disturbed round counts, for h2load and for Loadproof."""
    rows = []
    for cell in CELLS:
        row = _cell(measure(cell, place, CELL_S, ROUNDS))
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows, all(row["p50_holds"] and row["p99_holds"] for row in rows)


def _cell(reading: Reading) -> dict[str, Any]:
    client_ms, truth_ms = reading.best_p99_ms
    return {
        "cell": str(reading.cell),
        "requests": sum(len(joined.client_ms) for joined in reading.rounds),
        "quicker_than_truth": 0,  # joining them asserts it
        "h2load_adds_p50_ms": round(reading.floor_p50_ms, 3),
        "loadproof_adds_p50_ms": round(reading.added_p50_ms, 3),
        "difference_ms": round(reading.added_p50_ms - reading.floor_p50_ms, 3),
        "within_half_ms": reading.added_p50_ms - reading.floor_p50_ms <= 0.5,
        "limit_ms": reading.cell.p50_limit_ms,
        "p50_holds": reading.p50_holds,
        "truth_p99_ms": round(truth_ms, 1),
        "loadproof_p99_ms": round(client_ms, 1),
        "p99_holds": reading.p99_holds,
        "verdicts": [run["verdict"] for run in reading.runs],
    }


def stall(place: Path) -> Proof:
    """The server of plans/stall.toml: what it knows, what Loadproof says, and what a closed loop would have said."""
    rate = {"arrivals": "constant", "rate_rps": 100}
    with truth_server(place / "stall.jsonl", "--delay-ms", "8", "--stall-ms", "200") as server:
        opened, run = _stalled(server, place / "open", {"clients": 4, "transport": "wire", **rate})
        slower, _ = _stalled(server, place / "tritonclient", {"clients": 4, **rate})
        closed, _ = _stalled(server, place / "closed", {"clients": 1})
    rows = [
        _percentiles("the server's log, from the planned times", opened.due_ms),
        _percentiles("Loadproof, open loop, wire", opened.client_ms) | {"verdict": run["verdict"]},
        _percentiles("Loadproof, open loop, tritonclient", slower.client_ms),
        _percentiles("a closed loop of one client, for contrast", closed.client_ms),
        _percentiles("the server's log of that closed loop", closed.truth_ms),
    ]
    near = all(abs(rows[1][key] / rows[0][key] - 1) <= P99_SHARE for key in ("p95_ms", "p99_ms"))
    return rows, near and rows[1]["p95_ms"] == round(run["latency_ms"]["p95"], 1)


def _stalled(server: TruthServer, out: Path, load: Mapping[str, Any]) -> tuple[Joined, dict[str, Any]]:
    outcome = loadproof(server, out, {"protocol": "grpc", **load}, {"warmup_s": 2, "duration_s": STALL_S})
    return join(outcome, server), outcome.run


def _percentiles(who: str, latency_ms: Floats) -> dict[str, Any]:
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1.0}
    found = {name: round(nearest_rank(latency_ms, share), 1) for name, share in shares.items()}
    return {"who": who, "requests": len(latency_ms), **found, "mean_ms": round(float(np.mean(latency_ms)), 1)}


def losses(place: Path) -> Proof:
    """Everything that can be lost, over both protocols: over ten thousand requests, and each has a name."""
    rows = []
    for loss, protocol in itertools.product(LOSSES, ("grpc", "rest")):
        after = lose(loss, protocol, place, LOSS_RATE_RPS, LOSS_S)
        counts = after.outcome.run["requests"]
        rows.append(
            {
                "loss": f"{loss.name}, {protocol}",
                "planned": after.planned,
                "unaccounted": counts["unaccounted"],
                "accounts": after.accounts,
                "problems": after.problems(),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows, not any(row["problems"] for row in rows) and sum(row["planned"] for row in rows) > 10_000


PROOFS: Final[dict[str, Callable[[Path], Proof]]] = {"cells": cells, "stall": stall, "losses": losses}


def main() -> int:
    parser = proof.options("truth", __doc__)
    parser.add_argument("proof", choices=PROOFS)
    chosen = parser.parse_args()
    began_s, machine = time.monotonic(), proof.machine()
    with tempfile.TemporaryDirectory() as place:
        rows, holds = PROOFS[chosen.proof](Path(place))
    proof.show(rows)
    print(f"{chosen.proof}: {'holds' if holds else 'DOES NOT HOLD'} ({time.monotonic() - began_s:.0f} s)")
    limits = {
        "p50_ms": P50_MS,
        "p50_ms_tritonclient_grpc": P50_MS_TRITONCLIENT_GRPC,
        "p99_share": P99_SHARE,
        "rounds": ROUNDS,
    }
    proof.write(chosen.out, chosen.proof, machine, limits=limits, holds=holds, rows=rows)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
