"""Calibrates: for each API, protocol and transport the ceiling and the floor of one worker process.

The ceiling is a closed loop of so many clients that the worker never waits; the floor is one client alone. Both go
through all that a run goes through but the balancer: records, spool, shipping, the comparison of every answer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from loadproof.analyse import statistics
from loadproof.calibration.drive import Reading, null_server
from loadproof_clients.apis import APIS


class Cell(NamedTuple):
    """One combination of the keys under [load] that decide how fast a worker can be."""

    api: str
    protocol: str
    transport: str

    def __str__(self) -> str:
        return f"{self.api}, {self.transport}, {self.protocol}"


CELLS: Final = tuple(
    Cell(api, protocol, transport)
    for api, row in APIS.items()
    for protocol, carrier in row.carriers.items()
    for transport in carrier.transports
)
CLIENTS: Final = 64
WARMUP_S: Final = 0.5
WINDOW_S: Final = 2.5


def calibrate(
    report: Callable[[str], object], cells: Sequence[Cell] = CELLS, window_s: float = WINDOW_S
) -> list[dict[str, Any]]:
    """A row for each of `cells`, as store keeps them; `report` is called with what starts. Raises LoadproofError."""
    rows = []
    for api in dict.fromkeys(cell.api for cell in cells):
        with tempfile.TemporaryDirectory(prefix="loadproof-") as place, null_server(Path(place), api) as server:
            for cell in cells:
                if cell.api == api:
                    report(f"{cell}: the floor")
                    floor = server.drive({**cell._asdict(), "clients": 1}, WARMUP_S, window_s)
                    report(f"{cell}: the ceiling")
                    ceiling = server.drive({**cell._asdict(), "clients": CLIENTS}, WARMUP_S, window_s)
                    rows.append(row(cell, ceiling, floor))
    return rows


def row(cell: Cell, ceiling: Reading, floor: Reading) -> dict[str, Any]:
    """Rates in requests/s of one worker process, latencies in ms, bounds at 99 % confidence."""
    low, high = statistics.rate_bounds(ceiling.received_s, ceiling.seconds) or (ceiling.rate_rps, ceiling.rate_rps)
    latency = statistics.latency_ms(floor.latency_ns)
    return {
        **cell._asdict(),
        "ceiling_rps": round(ceiling.rate_rps, 1),
        "ceiling_low_rps": round(low, 1),
        "ceiling_high_rps": round(high, 1),
        "cpu_percent": round(ceiling.cpu_percent, 1),
        "cpu_us_per_request": round(ceiling.cpu_us_per_request, 1),
        "floor_p50_ms": latency.p50,
        "floor_p50_low_ms": latency.low.p50,
        "floor_p50_high_ms": latency.high.p50,
        "floor_p99_ms": latency.p99,
        "requests": len(ceiling.latency_ns) + len(floor.latency_ns),
    }
