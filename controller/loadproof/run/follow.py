"""Follows the load until it ends: its events, the server and the balancer, and a search's level that fails early."""

from __future__ import annotations

import time
from typing import Final

from loadproof.errors import LoadproofError
from loadproof.launch.load import Event, Generator
from loadproof.progress import View
from loadproof.run.observations import T0, Observations, Stage

POLL_S: Final = 0.2
DEATHS: Final = ("server_died", "balancer_died", "worker_died")
ARM_TIMEOUT_S: Final = 300  # from the master's start to T0: workers start, get the payloads, connect
DELIVER_TIMEOUT_S: Final = 90  # after the drain: the last records arrive; the master itself gives up earlier


def until_end(generator: Generator, seen: Observations, view: View) -> bool:
    """Returns once the load has ended: True where the user stopped it, and it was drained all the same.

    A component that dies is an event, and the load is stopped. Raises LoadproofError where the load does not start.
    """
    try:
        _follow(generator, seen, view)
    except KeyboardInterrupt:  # what was measured so far still has to reconcile
        view.stage("stopping")
        generator.stop_early()
        _follow(generator, seen, view)
        _find_deaths(seen)
        return True
    return False


def _follow(generator: Generator, seen: Observations, view: View) -> None:
    """Take the master's events until it ends."""
    measure = seen.run.measure
    deadline_s = time.monotonic() + ARM_TIMEOUT_S
    while (event := generator.next_event(POLL_S)) is not None:
        take(event, seen, view)
        if event.get("event") == "start":
            deadline_s = time.monotonic() + measure.warmup_s + measure.duration_s + measure.drain_s + DELIVER_TIMEOUT_S
        if _find_deaths(seen) or _fails_early(seen):
            generator.stop_early()
        if time.monotonic() > deadline_s:
            seen.event("worker_died", "the load did not end in time")
            return
    _judge_end(generator, seen)


def is_death(seen: Observations, timeout_s: float) -> bool:
    """Whether a component is found dead within `timeout_s`: an engine tells of it later than a cut connection does."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := _find_deaths(seen)) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return found


def _find_deaths(seen: Observations) -> bool:
    """Whether a component has died since the last call; then there is an event."""
    found = False
    components = {
        "server_died": seen.server and seen.server.target.component,
        "balancer_died": seen.balancer and seen.balancer.component,
    }
    for code, component in components.items():
        if component and not seen.has(code) and (how := component.died()):
            seen.event(code, how)
            found = True
    return found


def _fails_early(seen: Observations) -> bool:
    """Whether a level of a search has just been seen to fail; the run then ends on purpose."""
    elapsed_s = seen.elapsed_s
    return seen.early_failure is not None and elapsed_s is not None and seen.early_failure.look(elapsed_s)


def take(event: Event, seen: Observations, view: View) -> None:
    """What an event of the load means for the run."""
    match event.get("event"):
        case "start":
            _begin(event, seen)
        case "planned":
            seen.planned = event["requests"]
        case "progress":
            view.live(event)
        case "workers" if event["joining"]:
            view.stage(f"waiting for workers: {event['ready']} of {event['expected']} are here")
        case "worker_refused":
            view.stage(f"sent away: {event['message']}")
        case "worker_lost":
            seen.event("worker_died", event["message"])
        case "worker_restarted":
            seen.event("worker_restarted", event["message"])
        case "error":
            seen.load_error = event["message"]


def _begin(event: Event, seen: Observations) -> None:
    measure = seen.run.measure
    seen.stage, seen.t0 = Stage.LOADING, T0(event["t0_monotonic_ns"], event["t0_epoch_us"])
    seen.machine.watch("workers", event["pids"])
    edges_s = (measure.warmup_s, measure.warmup_s + measure.duration_s)
    for sampler in (seen.scraper, seen.power_meter):
        if sampler:
            sampler.follow(seen.t0.monotonic_ns, edges_s)


def _judge_end(generator: Generator, seen: Observations) -> None:
    master = generator.master
    code = master.popen.wait()
    reason = seen.load_error or f"the Locust master exited with code {code}"
    if code and seen.stage < Stage.LOADING:
        raise LoadproofError(f"the load did not start: {reason}", master.tail())
    if code and not seen.has("worker_died"):
        seen.event("worker_died", reason)
