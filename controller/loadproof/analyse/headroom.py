"""How near the load generator came to what it can do by itself, and how much of the latency is its own.

Both by the calibration that campaign.json holds; where there is none, nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from loadproof.analyse import statistics
from loadproof.analyse.population import Records, Window
from loadproof.analyse.schema import CalibratedRow, Calibration, Latency

API: Final = "kserve"  # of runs and calibrations that were written before there were others


class Headroom(NamedTuple):
    """Shares of the generator's own limits; the `_low` are bounds at 99 %. None without a calibration that holds."""

    ceiling_rps: float | None = None  # of one worker process
    ceiling_share: float | None = None  # what the busiest worker did of it
    ceiling_share_low: float | None = None
    floor_p50_ms: float | None = None
    floor_share: float | None = None  # of the run's median, from sent to received
    floor_share_low: float | None = None


def headroom(
    calibration: Calibration | None,
    workers: list[Mapping[str, Any]],
    load: Mapping[str, Any],
    records: Records,
    service_ms: Latency,
    window: Window,
) -> Headroom:
    """Of a RUN; `workers` are those of run.json, `load` is the plan's.

    A worker process is one thread: processes beyond the machine's cores share them. That the server may need cores of
    its own is not reckoned with; what it takes from the workers shows in their CPU and their lateness.
    """
    row = calibrated(calibration, load)
    if row is None or calibration is None or window.seconds <= 0:
        return Headroom()
    good = records.measured & records.good
    received_s = (records.received_ns[records.good & window.holds(records.received_ns)] - window.start) / 1e9
    if (bounds := statistics.rate_bounds(received_s, window.seconds)) is None or not good.any():
        return Headroom()
    clients = [worker["clients"] for worker in workers if worker.get("clients")]
    busiest = max(clients) / sum(clients) if clients else 1 / load.get("processes", 1)
    room = min(1.0, (calibration.threads or 1) / load.get("processes", 1))
    rate_rps = len(received_s) / window.seconds
    found = Headroom(
        ceiling_rps=row.ceiling_rps,
        ceiling_share=rate_rps * busiest / (row.ceiling_rps * room),
        ceiling_share_low=bounds[0] * busiest / (row.ceiling_high_rps * room),
    )
    p50_ms, high_ms, floor_ms = service_ms.p50, service_ms.high.p50, row.floor_p50_ms
    if not (p50_ms and high_ms and floor_ms):
        return found
    low_ms = row.floor_p50_low_ms or 0
    return found._replace(floor_p50_ms=floor_ms, floor_share=floor_ms / p50_ms, floor_share_low=low_ms / high_ms)


def calibrated(calibration: Calibration | None, load: Mapping[str, Any]) -> CalibratedRow | None:
    """The calibration's row for these workers: of this API, transport and protocol, on this machine."""
    if calibration is None or calibration.state != "valid" or load.get("expect_workers"):
        return None
    key = load.get("api", API), load.get("transport"), load.get("protocol")
    return next((row for row in calibration.rows if (row.api or API, row.transport, row.protocol) == key), None)


def note(calibration: Calibration | None, load: Mapping[str, Any]) -> str | None:
    """Says why nothing is known of the generator's ceiling and floor, where nothing is."""
    if calibrated(calibration, load) is not None:
        return None
    cure = " (cure: loadproof doctor --calibrate)"
    if calibration is None:
        why = "nothing was calibrated"
    elif load.get("expect_workers") or calibration.state == "elsewhere":
        why, cure = "its workers came from elsewhere", ""
    else:
        why = calibration.note or "the calibration has nothing of this transport and protocol"
    return f"How near the load generator came to its own ceiling and floor is not known: {why}{cure}."
