"""The ladder from benchmark_app in process up to the client: what serving costs, rung by rung."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadproof.analyse.schema import Ceiling, InProcess, Rung, ServerWitness, Witness, Witnesses


def ladder(facts: Mapping[str, Any] | None, served_ips: float | None, witnesses: Witnesses) -> Ceiling | None:
    """`ceiling` of a RUN: what benchmark_app did with the same settings, and what was served beside it.

    `facts` is run.json's `ceiling`. `efficiency` is served over ceiling, in inferences a second; of an open loop it
    says how much of the ceiling was asked for. `ladder` has mean and median latency in ms at each rung that was seen,
    the server's median as the bucket that it lies in. None where no ceiling was asked for.
    """
    if facts is None:
        return None
    if facts.get("error"):
        return Ceiling(error=facts["error"], efficiency=None, ladder=[])
    in_process, most_ips = InProcess.model_validate(facts["latency_ms"]), float(facts["throughput_ips"])
    rungs = (
        ("the server alone", witnesses.server),
        ("through the balancer", witnesses.balancer),
        ("at the client", witnesses.client),
    )
    return Ceiling(
        throughput_ips=most_ips,
        latency_ms=in_process,
        iterations=facts["iterations"],
        duration_s=facts["duration_s"],
        nireq=facts["nireq"],
        error=None,
        efficiency=None if served_ips is None else served_ips / most_ips,
        ladder=[
            Rung(rung="in process", mean_ms=in_process.mean, p50_ms=in_process.p50),
            *(_rung(name, witness) for name, witness in rungs if witness),
        ],
    )


def _rung(name: str, witness: Witness | ServerWitness) -> Rung:
    return Rung(rung=name, mean_ms=witness.latency_ms.mean, p50_ms=witness.latency_ms.p50)
