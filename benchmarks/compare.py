"""The long proof of compare: pairs of five interleaved repeats a side against a sleeping server, alike and slowed.

    python -m benchmarks.compare [--alike 20] [--slowed 10] [--out FILE.json [--resume]]

Each repeat is a `loadproof run` of its own, the sides by turns. One whose verdict says that something else had more of
the machine than a figure bears (`sides.BY_OTHERS`) is measured again, up to AGAIN_MAX times a side; which they were
is in FILE.json. It holds where at least 19 of 20 alike pairs show no evidence, and at least 9 of 10 whose server sleeps
10 % longer are found to be worse. 45 to 90 minutes, on a machine that does nothing else: with two pairs at once the
bounds were over twice as wide, and 3 of 6 slowed pairs were found; without measuring again it was 6 of 10, as for ten
minutes single repeats were a tenth and more off. With --resume it goes on after the pairs in FILE.json, where it was
interrupted.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import proof
from loadproof.analyse import RunSummary
from loadproof.compare import sides, texts
from loadproof.compare.comparison import Comparison, compare
from loadproof.report import display
from tests.truth.session import TruthServer, loadproof, truth_server

DELAY_MS: Final = 20
SLOWED: Final = 1.1
REPEATS: Final = 5
AGAIN_MAX: Final = 3
LOAD: Final = {"protocol": "grpc", "clients": 4}
MEASURE: Final = {"warmup_s": 0.5, "duration_s": 2, "drain_s": 1}
ALIKE_SHARE: Final = 19 / 20
SLOWED_SHARE: Final = 9 / 10
ABOUT: Final[dict[str, Any]] = {
    "limits": {"alike_share": ALIKE_SHARE, "slowed_share": SLOWED_SHARE},
    "plan": {
        "delay_ms": DELAY_MS,
        "slowed": SLOWED,
        "repeats": REPEATS,
        "again_max": AGAIN_MAX,
        "load": LOAD,
        "measure": MEASURE,
    },
}


def pair(place: Path, slower: float) -> Comparison:
    """A pair of sides, measured and compared; `slower`: how much longer the second one's server sleeps."""
    with (
        truth_server(place / "before.jsonl", "--delay-ms", str(DELAY_MS)) as before,
        truth_server(place / "after.jsonl", "--delay-ms", str(DELAY_MS * slower)) as after,
    ):
        servers: dict[str, TruthServer] = {"before": before, "after": after}
        calm = dict.fromkeys(servers, 0)
        for repeat in range(REPEATS + AGAIN_MAX):
            # who goes first changes, so that neither side has the warmer machine
            for side in sorted(servers, reverse=repeat % 2 == 0):
                if calm[side] < REPEATS:
                    measured = loadproof(servers[side], place / side / str(repeat), LOAD, MEASURE)
                    calm[side] += not sides.is_disturbed(RunSummary.model_validate(measured.run))
    (found,) = compare([place / "before", place / "after"])
    return found


def row(kind: str, comparison: Comparison) -> dict[str, Any]:
    """What was found, as it goes into the table and the JSON."""
    (found,) = comparison.pairs
    ratios = {name: change.ratio for name, change in found.changes.items() if change.ratio}
    return {
        "pair": kind,
        "verdict": found.verdict,
        "metric": found.primary,
        "repeats": [found.before, found.after],
        "runs": [[_told(run) for run in side.runs] for side in (comparison.before, comparison.after)],
        "why": texts.why(found),
        "ratios": {name: [round(value, 4) for value in ratio] for name, ratio in ratios.items()},
    }


def _told(run: sides.Measured) -> dict[str, Any]:
    codes = [reason.code for reason in run.summary.reasons]
    return {"throughput_rps": run.summary.throughput_rps, "verdict": run.summary.verdict, "reasons": codes}


def measured(out: Path | None, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """The pairs of an interrupted proof; raises SystemExit where there are none, or of another plan or machine."""
    if out is None or not out.exists():
        raise SystemExit("--resume: --out must name the file of the proof that was interrupted")
    found = json.loads(out.read_text())
    if any(found[key] != value for key, value in ABOUT.items()):
        raise SystemExit(f"--resume: {out} has another plan; start anew with another file")
    if any(found["environment"][key] != machine[key] for key in ("cpu_model", "memory_bytes", "kernel", "packages")):
        raise SystemExit(f"--resume: {out} comes from another machine; start anew with another file")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def holds(rows: list[dict[str, Any]]) -> bool:
    """Both shares are kept."""
    wanted = {"alike": ("no evidence", ALIKE_SHARE), "slowed": ("worse", SLOWED_SHARE)}
    shares = {
        kind: [one["verdict"] == verdict for one in rows if one["pair"] == kind]
        for kind, (verdict, _) in wanted.items()
    }
    return all(sum(found) >= wanted[kind][1] * len(found) for kind, found in shares.items())


def main() -> int:
    parser = proof.options("compare", __doc__)
    parser.add_argument("--alike", type=int, default=20, help="pairs")
    parser.add_argument("--slowed", type=int, default=10, help="pairs")
    parser.add_argument("--resume", action="store_true", help="go on after the pairs in FILE.json")
    chosen = parser.parse_args()
    counts = {"alike": chosen.alike, "slowed": chosen.slowed}
    began_s, machine = time.monotonic(), proof.machine()
    rows = measured(chosen.out, machine) if chosen.resume else []
    shares = [((number + 0.5) / count, kind) for kind, count in counts.items() for number in range(count)]
    kinds = [kind for _, kind in sorted(shares)]  # by turns, so that a bad quarter of an hour is nobody's alone
    for kind in kinds[len(rows) :]:
        with tempfile.TemporaryDirectory() as place:
            rows.append(row(kind, pair(Path(place), SLOWED if kind == "slowed" else 1)))
        print(f"{len(rows):>3} {kind:<6}  {rows[-1]['verdict']:<11}  {rows[-1]['why']}", flush=True)
        # after each, so that an interrupted proof leaves what it has; one that has not ended does not hold
        ended = len(rows) == len(kinds)
        proof.write(chosen.out, "compare", machine, **ABOUT, holds=ended and holds(rows), rows=rows)
    kept, minutes = holds(rows), (time.monotonic() - began_s) / 60
    for kind, verdict in (("alike", "no evidence"), ("slowed", "worse")):
        of_kind = [one for one in rows if one["pair"] == kind]
        found = sum(one["verdict"] == verdict for one in of_kind)
        print(f"{kind}: {verdict} in {found} of {len(of_kind)} pairs")
    print(f"compare: {'holds' if kept else 'DOES NOT HOLD'} ({display.figure(minutes)} min)")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
