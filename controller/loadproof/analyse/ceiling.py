"""The ladder from benchmark_app in process up to the client: what serving costs, rung by rung."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def ladder(ceiling: Mapping[str, Any] | None, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """`ceiling` of a RUN: what benchmark_app did with the same settings, and what was served beside it.

    `efficiency` is served over ceiling, in inferences a second; of an open loop it says how much of the ceiling was
    asked for. `ladder` has mean and median latency in ms at each rung that was seen, the server's median as the bucket
    that it lies in. None where no ceiling was asked for; `error` says why it could not be had.
    """
    if ceiling is None:
        return None
    if ceiling.get("error"):
        return {"error": ceiling["error"], "efficiency": None, "ladder": []}
    served = result["throughput_ips"]
    names = {"server": "the server alone", "balancer": "through the balancer", "client": "at the client"}
    seen = {names[name]: one["latency_ms"] for name in names if (one := result["witnesses"].get(name))}
    rungs = {"in process": ceiling["latency_ms"], **seen}
    return {
        **ceiling,
        "error": None,
        "efficiency": None if served is None else served / ceiling["throughput_ips"],
        "ladder": [{"rung": name, "mean_ms": one["mean"], "p50_ms": one["p50"]} for name, one in rungs.items()],
    }
