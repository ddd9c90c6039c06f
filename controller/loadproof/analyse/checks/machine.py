"""Did the machine do something else meanwhile, or was it not the same machine all along?"""

from __future__ import annotations

from typing import Final

from loadproof.analyse.checks.events import Facts
from loadproof.analyse.words import figure, percent

# Sizes of an effect; where there is a bound at 99 % confidence, it must exclude the smaller one.
OTHER_PERCENT: Final = 10.0  # of all CPUs
OTHER_BOUND: Final = 5.0
STEAL_PERCENT: Final = 2.0
STEAL_BOUND: Final = 1.0
WAITED_PERCENT: Final = 20.0  # of the window, of the worker that waits most: where little is sent, little is waited
WAITED_SHARE: Final = 0.5  # of a request's latency
FREQUENCY_CHANGE: Final = 0.10  # as a share
FREQUENCY_BOUND: Final = 0.05
THROTTLED_SHARE: Final = 0.01  # of the window
CLOCK_STEP_MS: Final = 5.0


def other_load(run: Facts) -> Facts | None:
    machine = run["machine"]
    if machine is None or not _is_high(machine["other"], OTHER_PERCENT, OTHER_BOUND):
        return None
    pressure = machine["pressure_percent"]
    told = "" if pressure is None else f"; for {pressure:.0f} % of the time something waited for a CPU"
    return {**machine["other"], "cpus": machine["cpus"], "told": told}


def stolen(run: Facts) -> Facts | None:
    steal = run["machine"] and run["machine"]["steal"]
    return steal if _is_high(steal, STEAL_PERCENT, STEAL_BOUND) else None


def shared_cores(run: Facts) -> Facts | None:
    """What the load itself waited for a core is a real part of the latency; that they share cores is a note."""
    waited_ms, latency_ms = _wait_ms(run), (run["service_latency_ms"] or run["latency_ms"])["mean"]
    often = (run["generator"]["waited"] or {"mean": 0})["mean"] > WAITED_PERCENT
    if waited_ms is None or not often or not latency_ms or waited_ms <= WAITED_SHARE * latency_ms:
        return None
    return {"waited_ms": figure(waited_ms), "latency_ms": figure(latency_ms)}


def _wait_ms(run: Facts) -> float | None:
    """How long a request waited because a thread of the workers or of the balancer had no core.

    The server's threads are left out: on a full machine of its own they would wait for each other as well.
    """
    workers = run["generator"]["wait_ms_per_request"]
    balancer = run["machine"]["wait_ms_per_request"].get("balancer", 0) if run["machine"] else 0
    return None if workers is None else float(workers + balancer)


def speed_changed(run: Facts) -> Facts | None:
    machine, told = run["machine"] or {}, []
    if trend := machine.get("frequency"):
        change = trend["change"]
        surely = trend["low"] if change > 0 else -trend["high"]
        if abs(change) > FREQUENCY_CHANGE and surely > FREQUENCY_BOUND:
            told.append(f"the CPUs' frequency changed by {percent(change, sign='+')} along the window")
    if throttles := machine.get("thermal_throttles"):
        told.append(f"the processor throttled itself {throttles:,.0f} times for heat")
    throttled_s, seconds = machine.get("quota_throttled_s") or 0, run["window"]["duration_s"]
    if throttled_s > THROTTLED_SHARE * seconds:
        told.append(f"a CPU quota (cgroup) held processes of the run back for {throttled_s:.2g} s")
    return {"message": _sentence("; ".join(told))} if told else None


def clock_stepped(run: Facts) -> Facts | None:
    steps = {f"of worker {worker}": by_ms for worker, by_ms in run["generator"]["clock_steps_ms"].items()}
    if run["machine"]:
        steps["of the controller"] = run["machine"]["clock_step_ms"] or 0
    told = [f"{whose} by {by_ms:,.4g} ms" for whose, by_ms in steps.items() if by_ms > CLOCK_STEP_MS]
    return {"clocks": ", ".join(told)} if told else None


def _is_high(share: Facts | None, percent: float, bound: float) -> bool:
    return share is not None and share["mean"] > percent and share["low"] > bound


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
