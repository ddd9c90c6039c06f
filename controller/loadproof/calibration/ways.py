"""Calibrates: for each transport and protocol the ceiling and the floor of one worker process.

The ceiling is a closed loop of so many clients that the worker never waits; the floor is one client alone. Both go
through all that a run goes through but the balancer: records, spool, shipping, the comparison of every answer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from loadproof.analyse import statistics
from loadproof.calibration.drive import Reading, null_server

WAYS: Final = [(transport, protocol) for transport in ("wire", "tritonclient") for protocol in ("grpc", "rest")]
CLIENTS: Final = 64
WARMUP_S: Final = 0.5
WINDOW_S: Final = 2.5


def calibrate(
    tell: Callable[[str], object], ways: Sequence[tuple[str, str]] = WAYS, window_s: float = WINDOW_S
) -> list[dict[str, Any]]:
    """A row for each of `ways`, as store keeps them; `tell` hears what is under way. Raises LoadproofError."""
    with tempfile.TemporaryDirectory(prefix="loadproof-") as place, null_server(Path(place)) as server:
        rows = []
        for transport, protocol in ways:
            tell(f"{transport}, {protocol}: the floor")
            way = {"transport": transport, "protocol": protocol}
            floor = server.drive({**way, "clients": 1}, WARMUP_S, window_s)
            tell(f"{transport}, {protocol}: the ceiling")
            ceiling = server.drive({**way, "clients": CLIENTS}, WARMUP_S, window_s)
            rows.append(row(transport, protocol, ceiling, floor))
        return rows


def row(transport: str, protocol: str, ceiling: Reading, floor: Reading) -> dict[str, Any]:
    """Rates in requests/s of one worker process, latencies in ms, bounds at 99 % confidence."""
    low, high = statistics.rate_bounds(ceiling.received_s, ceiling.seconds) or (ceiling.rate_rps, ceiling.rate_rps)
    latency = statistics.latency_ms(floor.latency_ns)
    return {
        "transport": transport,
        "protocol": protocol,
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
