"""How near the load generator came to what it can do by itself, and how much of the latency is its own.

Both beside the calibration that campaign.json holds; where there is none, nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from loadproof.analyse import statistics
from loadproof.analyse.population import Records, Window

NAMES: Final = (
    "ceiling_rps",  # of one worker process
    "ceiling_share",  # what the busiest worker did of it
    "ceiling_share_low",
    "floor_p50_ms",
    "floor_share",  # of the run's median, from sent to received
    "floor_share_low",
)
Facts = Mapping[str, Any]


def beside(
    calibration: Facts | None, facts: Facts, load: Facts, records: Records, service_ms: Facts, window: Window
) -> dict[str, float | None]:
    """NAMES of a RUN; null without a calibration that holds for its workers. The `_low` are bounds at 99 %.

    A worker process is one thread: processes beyond the machine's cores share them. That the server may need cores of
    its own is not reckoned with; what it takes from the workers shows in their CPU and their lateness.
    """
    nothing: dict[str, float | None] = dict.fromkeys(NAMES)
    way = of_way(calibration, load)
    if way is None or calibration is None or window.seconds <= 0:
        return nothing
    good = records.measured & records.good
    received_s = (records.received_ns[records.good & window.holds(records.received_ns)] - window.start) / 1e9
    if (bounds := statistics.rate_bounds(received_s, window.seconds)) is None or not good.any():
        return nothing
    clients = [worker["clients"] for worker in facts.get("workers", []) if worker.get("clients")]
    busiest = max(clients) / sum(clients) if clients else 1 / load.get("processes", 1)
    room = min(1.0, (calibration["threads"] or 1) / load.get("processes", 1))
    rate_rps = len(received_s) / window.seconds
    found: dict[str, float | None] = {
        "ceiling_rps": way["ceiling_rps"],
        "ceiling_share": rate_rps * busiest / (way["ceiling_rps"] * room),
        "ceiling_share_low": bounds[0] * busiest / (way["ceiling_high_rps"] * room),
    }
    p50_ms, high_ms, floor_ms = service_ms["p50"], service_ms["high"]["p50"], way["floor_p50_ms"]
    if p50_ms and high_ms and floor_ms:
        low_ms = way["floor_p50_low_ms"] or 0
        found |= {"floor_p50_ms": floor_ms, "floor_share": floor_ms / p50_ms, "floor_share_low": low_ms / high_ms}
    return nothing | found


def of_way(calibration: Facts | None, load: Facts) -> Facts | None:
    """The calibration's row for these workers: of this transport and protocol, on this machine."""
    if calibration is None or calibration["state"] != "valid" or load.get("expect_workers"):
        return None
    key = load.get("transport"), load.get("protocol")
    return next((way for way in calibration["ways"] if (way["transport"], way["protocol"]) == key), None)


def note(calibration: Facts | None, load: Facts) -> str | None:
    """Says why nothing is known of the generator's ceiling and floor, where nothing is."""
    if of_way(calibration, load) is not None:
        return None
    cure = " (cure: loadproof doctor --calibrate)"
    if calibration is None:
        why = "nothing was calibrated"
    elif load.get("expect_workers") or calibration["state"] == "elsewhere":
        why, cure = "its workers came from elsewhere", ""
    else:
        why = calibration["note"] or "the calibration has nothing of this transport and protocol"
    return f"How near the load generator came to its own ceiling and floor is not known: {why}{cure}."
