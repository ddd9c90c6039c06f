"""The proof that a clean run stays clean: ten in a row on a quiet machine, and not one reason is raised.

    python -m benchmarks.verdict clean [--runs 10] [--out FILE.json]

An external server that sleeps: the null server, for tests.truth_server does less than 30 % of what the wire can offer.
An open loop at 30 % of what one worker can do, both transports and both protocols in turn; where worker, balancer and
server together can do less on this machine, at 30 % of that: a machine that is full is not clean. The ceilings are
measured first, and are the calibration that the runs are held to. Prints a table and, below it, every reason in full.
About four minutes; whatever else runs on the machine will be told as the load that it is. Ends with 1 where a run has a
reason.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import proof
from loadproof import calibration
from tests.truth.session import ROOT, TruthServer, loadproof

CEILING_SHARE: Final = 0.3
DELAY_MS: Final = 20
CLIENTS: Final = 4
CROWD: Final = 64  # clients of the closed loop that finds what all together can do
MEASURE: Final = {"warmup_s": 1, "duration_s": 6, "drain_s": 2}
TOGETHER: Final = {"warmup_s": 1, "duration_s": 2, "drain_s": 2}
SHOWN: Final = {  # of a row's figures, as the table names them
    **{"run": "run", "transport": "transport", "protocol": "by", "verdict": "verdict", "rate_rps": "/ s"},
    **{"ceiling_share": "share", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "late": "late", "cpu_percent": "cpu %"},
    **{"other_percent": "other %", "steal_percent": "steal %", "pressure_percent": "psi %"},
}
# One after the other: a transport never twice in a row
CELLS: Final = tuple(
    calibration.Cell("kserve", protocol, transport)
    for protocol in ("grpc", "rest")
    for transport in ("wire", "tritonclient")
)


def clean(runs: int, place: Path) -> list[dict[str, Any]]:
    """A row for each run; the calibration of this session is kept below `place`, not in the user's own."""
    os.environ["XDG_STATE_HOME"] = str(place / "state")
    ways = calibration.calibrate(lambda text: print(text, file=sys.stderr, flush=True), CELLS)
    calibration.write(ways)
    with null_server(place, delay_ms=0) as server:
        most_rps = [min(way["ceiling_rps"], together_rps(server, place, way)) for way in ways]
    rows = []
    with null_server(place, DELAY_MS) as server:
        for number, (way, rate_rps) in zip(range(1, runs + 1), itertools.cycle(zip(ways, most_rps, strict=True))):
            load = {"transport": way["transport"], "protocol": way["protocol"], "clients": CLIENTS}
            load |= {"arrivals": "constant", "rate_rps": round(CEILING_SHARE * rate_rps)}
            rows.append(_row(number, load, loadproof(server, place / f"run-{number}", load, MEASURE).run))
            print(f"run {number} of {runs}: {rows[-1]['verdict']}", file=sys.stderr, flush=True)
    return rows


def together_rps(server: TruthServer, place: Path, way: Mapping[str, Any]) -> float:
    """What worker, balancer and server can do together, in a closed loop."""
    load = {"transport": way["transport"], "protocol": way["protocol"], "clients": CROWD}
    run = loadproof(server, place / f"together-{way['transport']}-{way['protocol']}", load, TOGETHER).run
    return float(run["throughput_rps"])


@contextlib.contextmanager
def null_server(place: Path, delay_ms: float) -> Iterator[TruthServer]:
    """It sleeps so long before each answer."""
    command = [sys.executable, "-m", "loadproof_clients.null_server", "--delay-ms", str(delay_ms)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            grpc, rest = (f"127.0.0.1:{ports[protocol]}" for protocol in ("grpc", "rest"))
            yield TruthServer(grpc, rest, place / "no-log", process, metrics=False)
        finally:
            process.terminate()


def _row(number: int, load: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's verdict, and the figures that its reasons are about; null where the machine does not tell."""
    machine, generator = run["machine"] or {}, run["generator"]
    return {
        "run": number,
        "transport": load["transport"],
        "protocol": load["protocol"],
        "verdict": run["verdict"],
        "reasons": [{key: reason[key] for key in ("code", "message")} for reason in run["reasons"]],
        "rate_rps": load["rate_rps"],
        "ceiling_share": generator["ceiling_share"],
        "sent": run["requests"]["sent"],
        "p50_ms": run["latency_ms"]["p50"],
        "p99_ms": run["latency_ms"]["p99"],
        "late": (generator["late"] or {}).get("over"),
        "cpu_percent": generator["cpu_percent_median"],
        "stood_percent": (generator["stood"] or {}).get("mean"),
        "other_percent": (machine.get("other") or {}).get("mean"),
        "steal_percent": (machine.get("steal") or {}).get("mean"),
        "pressure_percent": machine.get("pressure_percent"),
        "clock_step_ms": machine.get("clock_step_ms"),
        "notes": run["notes"],
    }


def main() -> int:
    parser = proof.options("verdict", __doc__)
    parser.add_argument("proof", choices=["clean"])
    parser.add_argument("--runs", type=int, default=10)
    chosen = parser.parse_args()
    began_s, machine = time.monotonic(), proof.machine()
    with tempfile.TemporaryDirectory() as place:
        rows = clean(chosen.runs, Path(place))
    holds = not any(row["reasons"] for row in rows)
    proof.show([_short(row) for row in rows])
    for row in rows:
        for reason in row["reasons"]:
            print(f"run {row['run']}: {reason['code']}: {reason['message']}")
    print(f"{chosen.proof}: {'holds' if holds else 'DOES NOT HOLD'} ({time.monotonic() - began_s:.0f} s)")
    proof.write(chosen.out, chosen.proof, machine, holds=holds, rows=rows)
    return 0 if holds else 1


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """As the table shows it, three digits of each figure; the reasons follow it in full."""
    figures = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in row.items()}
    shown = {title: "-" if figures[name] is None else figures[name] for name, title in SHOWN.items()}
    return {**shown, "reasons": len(row["reasons"])}


if __name__ == "__main__":
    sys.exit(main())
