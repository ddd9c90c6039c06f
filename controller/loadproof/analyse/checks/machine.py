"""Did the machine do something else meanwhile, or was it not the same machine all along?"""

from __future__ import annotations

from typing import Final

from loadproof.analyse.checks.events import Fields
from loadproof.analyse.formats import figure, percent
from loadproof.analyse.schema import RunSummary, Share

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


def other_load(run: RunSummary) -> Fields | None:
    machine = run.machine
    if machine is None or machine.other is None or not _is_high(machine.other, OTHER_PERCENT, OTHER_BOUND):
        return None
    pressure = machine.pressure_percent
    waited = "" if pressure is None else f"; for {pressure:.0f} % of the time something waited for a CPU"
    return {**dict(machine.other), "cpus": machine.cpus, "waited": waited}


def stolen(run: RunSummary) -> Fields | None:
    steal = run.machine.steal if run.machine else None
    return dict(steal) if steal and _is_high(steal, STEAL_PERCENT, STEAL_BOUND) else None


def shared_cores(run: RunSummary) -> Fields | None:
    """What the load itself waited for a core is a real part of the latency; that they share cores is a note."""
    waited_ms, latency_ms = _wait_ms(run), (run.service_latency_ms or run.latency_ms).mean
    waited = run.generator.waited
    often = waited is not None and waited.mean > WAITED_PERCENT
    if waited_ms is None or not often or not latency_ms or waited_ms <= WAITED_SHARE * latency_ms:
        return None
    return {"waited_ms": figure(waited_ms), "latency_ms": figure(latency_ms)}


def _wait_ms(run: RunSummary) -> float | None:
    """How long a request waited because a thread of the workers or of the balancer had no core.

    The server's threads are left out: on a full machine of its own they would wait for each other as well.
    """
    workers = run.generator.wait_ms_per_request
    balancer = run.machine.wait_ms_per_request.get("balancer", 0) if run.machine else 0
    return None if workers is None else workers + balancer


def speed_changed(run: RunSummary) -> Fields | None:
    machine = run.machine
    if machine is None:
        return None
    found = []
    if trend := machine.frequency:
        surely = trend.low if trend.change > 0 else -trend.high
        if abs(trend.change) > FREQUENCY_CHANGE and surely > FREQUENCY_BOUND:
            found.append(f"the CPUs' frequency changed by {percent(trend.change, sign='+')} along the window")
    if machine.thermal_throttles:
        found.append(f"the processor throttled itself {machine.thermal_throttles:,.0f} times for heat")
    throttled_s = machine.quota_throttled_s or 0
    if throttled_s > THROTTLED_SHARE * (run.window.duration_s or 0):
        found.append(f"a CPU quota (cgroup) held processes of the run back for {throttled_s:.2g} s")
    return {"message": _sentence("; ".join(found))} if found else None


def clock_stepped(run: RunSummary) -> Fields | None:
    steps = {f"of worker {worker}": by_ms for worker, by_ms in run.generator.clock_steps_ms.items()}
    if run.machine:
        steps["of the controller"] = run.machine.clock_step_ms or 0
    set_by = [f"{whose} by {by_ms:,.4g} ms" for whose, by_ms in steps.items() if by_ms > CLOCK_STEP_MS]
    return {"clocks": ", ".join(set_by)} if set_by else None


def _is_high(share: Share, percent: float, bound: float) -> bool:
    return share.mean > percent and share.low > bound


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
