"""What a request costs the load generator: wire and tritonclient beside h2load, with recording and without.

    python -m benchmarks.generator [--rounds 5] [--out FILE.json]

Interleaved rounds on one null server, medians; CPU is that of the process that sends, in us a request. "bare" is the
transport in a loop, "recorded" the real worker: records, spool, shipping, every answer compared. CPU and ceiling (of
one worker process, so of one core) are of a closed loop of 64 clients, p50 of one client on one connection. Five
rounds take five minutes; rounds that FILE holds already count, so that they can be taken in pieces. Ends with 1 where
a limit does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import h2load
from loadproof import environment
from loadproof.calibration.drive import NullServer, null_server
from loadproof.launch.child import python_environment

PROTOCOLS: Final = ("grpc", "rest")
TRANSPORTS: Final = ("wire", "tritonclient")
CLIENTS: Final = 64
WARMUP_S, WINDOW_S, BARE_S = 0.4, 2.2, 1.5
H2LOAD_REQUESTS: Final = 20_000
TIMES_H2LOAD, TIMES_TRITONCLIENT, P50_MS = 3.0, 0.5, 0.2

Round = dict[str, dict[str, float]]  # figures by "protocol who"


def take(server: NullServer) -> Round:
    """One round: everybody once, one after the other."""
    found: Round = {}
    for protocol in PROTOCOLS:
        many = h2load.offer(server.address[protocol], protocol, CLIENTS, H2LOAD_REQUESTS)
        alone = h2load.offer(server.address[protocol], protocol, 1, H2LOAD_REQUESTS)
        found[f"{protocol} h2load"] = {
            "bare_us": many.cpu_us_per_request,
            "ceiling_rps": many.rate_rps,
            "p50_ms": float(np.median(alone.latency_ms)),
        }
        for transport in TRANSPORTS:
            way = {"protocol": protocol, "transport": transport}
            full = server.drive({**way, "clients": CLIENTS}, WARMUP_S, WINDOW_S)
            one = server.drive({**way, "clients": 1}, WARMUP_S, WINDOW_S) if transport == "wire" else None
            found[f"{protocol} {transport}"] = {
                "bare_us": _bare(server, protocol, transport),
                "recorded_us": full.cpu_us_per_request,
                "cpu_percent": full.cpu_percent,
                "ceiling_rps": full.rate_rps,
                **({"p50_ms": float(np.median(one.latency_ns)) / 1e6} if one else {}),
            }
    return found


def _bare(server: NullServer, protocol: str, transport: str) -> float:
    command = [sys.executable, "-m", "benchmarks.bare_loop", protocol, transport, server.address[protocol]]
    command += [str(server.payloads), str(CLIENTS), str(BARE_S)]
    done = subprocess.run(command, env=python_environment(), check=True, capture_output=True, text=True, timeout=60)
    return float(json.loads(done.stdout)["cpu_us_per_request"])


def medians(rounds: list[Round]) -> list[dict[str, Any]]:
    """A row for each protocol and program."""
    rows = []
    for name in rounds[0]:
        protocol, who = name.split()
        figures = {key: median(one[name][key] for one in rounds) for key in rounds[0][name]}
        h2load_us = median(one[f"{protocol} h2load"]["bare_us"] for one in rounds)
        recorded = figures.get("recorded_us")
        times = {"times_h2load": round(recorded / h2load_us, 2)} if recorded else {}
        rows.append({"protocol": protocol, "who": who, **_rounded(figures), **times})
    return rows


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 3 if key.endswith("_ms") else 1) for key, value in figures.items()}


def limits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What has to hold, and whether it does."""
    by_name = {(row["protocol"], row["who"]): row for row in rows}
    found = []
    for protocol in PROTOCOLS:
        yard, wire, other = (by_name[protocol, who] for who in ("h2load", *TRANSPORTS))
        checks = {
            "wire_times_h2load": (wire["recorded_us"] / yard["bare_us"], TIMES_H2LOAD),
            "wire_times_tritonclient": (wire["recorded_us"] / other["recorded_us"], TIMES_TRITONCLIENT),
            "wire_p50_over_h2load_ms": (wire["p50_ms"] - yard["p50_ms"], P50_MS),
        }
        for name, (value, most) in checks.items():
            found.append(
                {"protocol": protocol, "limit": name, "value": round(value, 3), "most": most, "holds": value <= most}
            )
    return found


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, justify="left" if isinstance(rows[0].get(name), str) else "right")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in names))
    Console(width=max(120, Console().width)).print(table)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generator", description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write; rounds that it holds already count")
    chosen = parser.parse_args()
    rounds: list[Round] = json.loads(chosen.out.read_text())["rounds"] if chosen.out and chosen.out.exists() else []
    began_s, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place, null_server(Path(place)) as server:
        while len(rounds) < chosen.rounds:
            rounds.append(take(server))
            print(f"round {len(rounds)} of {chosen.rounds}", file=sys.stderr, flush=True)
            if chosen.out:
                save(chosen.out, rounds, load)
    rows = medians(rounds)
    judged = limits(rows)
    show(rows)
    show(judged)
    holds = all(one["holds"] for one in judged)
    print(f"generator: {'holds' if holds else 'DOES NOT HOLD'} ({time.monotonic() - began_s:.0f} s)")
    return 0 if holds else 1


def save(out: Path, rounds: list[Round], load: float) -> None:
    """What there is until now: rounds, medians, limits, date and machine."""
    rows = medians(rounds)
    judged = limits(rows)
    machine = {**environment.record(), "load_at_start": load}
    content = {"schema": 1, "proof": "generator", "date": time.strftime("%Y-%m-%d"), "environment": machine}
    content |= {"holds": all(one["holds"] for one in judged), "limits": judged, "rows": rows, "rounds": rounds}
    out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
