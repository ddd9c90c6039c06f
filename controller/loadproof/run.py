"""One run, online: launch, references, load, scrapes, drain, stop; then what was seen goes into its directory."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from loadproof.collect import gather
from loadproof.collect.early import Failing
from loadproof.collect.gather import Seen
from loadproof.collect.log_collector import LOOK_INTERVAL_S
from loadproof.collect.power import PowerMeter
from loadproof.collect.scrape import Scraper
from loadproof.errors import LoadproofError
from loadproof.launch import balancer, ceiling, load, server
from loadproof.launch.balancer import Balancer
from loadproof.launch.child import Child
from loadproof.launch.load import Doors, Event, Generator, ReferenceFailed
from loadproof.launch.server import Target
from loadproof.launch.stack import Stack
from loadproof.models import Model
from loadproof.plan import Plan, Run
from loadproof.progress import View
from loadproof_clients.spec import LoadSpec

POLL_S = 0.2
CUT_INTERVAL_S = 0.5  # between looks at whether a search's level has failed already
DEATHS = ("server_died", "balancer_died", "worker_died")
ARM_TIMEOUT_S = 300  # from the master's start to T0: workers start, get the payloads, connect
DELIVER_TIMEOUT_S = 90  # after the drain: the last records arrive; the master itself gives up earlier


def measure(
    run: Run,
    run_id: str,
    directory: Path,
    model: Model | None,
    view: View,
    doors: Doors,
    stack: Stack | None = None,
    plan: Plan | None = None,
) -> None:
    """Run it, here or in a stack, and write its run directory whatever happens.

    Raises LoadproofError when something did not start, KeyboardInterrupt when the user stopped it; what was seen until
    then is in the directory. What goes wrong once the load runs raises nothing: it is an event for the verdict.
    """
    seen = Seen(run, run_id, directory, model)
    if plan and plan.power:
        seen.power_meter = PowerMeter(plan.power)
    if plan and plan.search:
        seen.failing = Failing(run, seen.work)
    seen.logs.mkdir(parents=True)
    seen.work.mkdir()
    try:
        with contextlib.ExitStack() as started:
            _online(run, seen, started, view, doors, stack)
    except KeyboardInterrupt:
        seen.event("interrupted", "the user stopped it")
        raise
    except LoadproofError as error:
        seen.event("interrupted", str(error).splitlines()[0])
        raise
    finally:
        view.stage("collecting")
        gather.write(seen)


def _online(run: Run, seen: Seen, started: contextlib.ExitStack, view: View, doors: Doors, stack: Stack | None) -> None:
    _before(run, seen, started, view)
    view.stage("starting the server" if stack is None else "configuring the server")
    target = _start_server(run, seen, started, stack)
    witness = None
    if run.load.via == "balancer":
        view.stage("starting the balancer")
        there = balancer.attach(stack, seen.logs) if stack else balancer.start(target, seen.logs, doors.host)
        witness = _watch_balancer(run, seen, started.enter_context(there))
    urls = {"server": target.metrics_url, "balancer": witness.metrics_url if witness else None}
    if doors.prometheus:
        started.enter_context(doors.prometheus.follow({**urls, "clients": doors.metrics_url}))
    seen.machine.watch("server", server.pids(target))
    seen.machine.watch("balancer", witness.party.pids() if witness else [])
    scraper = seen.scraper = Scraper(urls, seen.machine)
    started.callback(scraper.stop)
    scraper.scrape()  # the start edge: nothing was asked yet
    url = (witness or target).address(run.load.protocol)
    joining = run.load.processes if stack else run.load.expect_workers  # a stack's workers all stand already
    load_spec = run.load.model_copy(update={"expect_workers": joining})
    spec = LoadSpec(
        run=seen.run_id, url=url, model=target.model, load=load_spec, measure=run.measure, repeat=run.repeat
    )
    spec_path, payloads = seen.work / "spec.json", seen.work / "payloads.bin"
    spec_path.write_text(spec.model_dump_json())
    view.stage("preparing payloads and references")
    try:
        answers = _references(run, seen, spec_path, payloads)
    except ReferenceFailed as error:
        seen.references["error"] = str(error)
        seen.event("reference_failed", (str(error).splitlines() or ["no reason was given"])[-1])
        return
    view.stage("arming the clients")
    seen.workers_from_elsewhere = joining > 0
    here = run.load.processes - joining
    generated = load.generate(spec, spec_path, payloads, answers, seen.work, seen.logs, doors, here)
    interrupted = False
    with generated as generator:
        try:
            _follow(generator, seen, view)
        except KeyboardInterrupt:  # what was measured so far still has to reconcile
            interrupted = True
            view.stage("stopping")
            generator.stop_early()
            _follow(generator, seen, view)
            _look(seen)
    view.stage("reconciling")
    scraper.until_agreed(timeout_s=1 if seen.events else 10)
    seen.served.append(server.served(target))
    if witness and not seen.has("balancer_died"):
        _wait_for_log(witness.requests_log)
    # Compose stops the whole stack when one of its containers dies: then that is what happened.
    if interrupted and not (stack and any(event["code"] in DEATHS for event in seen.events)):
        raise KeyboardInterrupt


def _before(run: Run, seen: Seen, started: contextlib.ExitStack, view: View) -> None:
    """What is measured while nothing of the run is there yet."""
    if seen.power_meter:
        view.stage("measuring idle power")
        seen.power_meter.idle()
        started.callback(seen.power_meter.stop)
    if run.server.ceiling and seen.model:
        view.stage("measuring the ceiling")
        seen.ceiling = ceiling.measure(run, seen.model, seen.work, seen.logs / "ceiling.log")


def _start_server(run: Run, seen: Seen, started: contextlib.ExitStack, stack: Stack | None) -> Target:
    if stack is not None:
        assert seen.model is not None
        stack.configure(run.server, seen.model)
        target = stack.target(seen.model)
    elif run.server.launch == "external":
        target = server.find(run.server)
    elif run.server.launch == "docker":
        from loadproof.launch import container  # the Docker SDK is for those who use it

        assert seen.model is not None
        target = container.start(run.server, seen.model, seen.logs / "server.log", seen.campaign)
    else:
        assert seen.model is not None
        target = server.start(run.server, seen.model, seen.logs / "server.log")
    if target.party is not None:
        seen.server = started.enter_context(target.party)
    seen.server_has_metrics = target.metrics_url is not None
    server.wait_ready(target)
    seen.server_about = server.about(target)
    seen.served.append(server.served(target))
    return target


def _watch_balancer(run: Run, seen: Seen, witness: Balancer) -> Balancer:
    seen.balancer, seen.requests_log = witness.party, witness.requests_log
    balancer.require_room(witness.metrics_url, run.load.clients)
    return witness


def _references(run: Run, seen: Seen, spec_path: Path, payloads: Path) -> Path | None:
    """Payloads into their file, reference answers into theirs: from OpenVINO where the model is at hand."""
    log, records = seen.logs / "prepare.log", payloads.with_name("reference.rec")
    answers = payloads.with_name("answers.bin") if run.load.verify else None
    if seen.model is None or answers is None:
        seen.references["source"] = "server" if answers else None
        load.prepare(spec_path, payloads, log, records, answers)
    else:
        seen.references["source"] = "openvino"
        load.prepare(spec_path, payloads, log, records)
        flags = server.openvino_flags(run.server)
        load.refer(seen.model.directory, flags, payloads, answers, seen.logs / "reference.log")
    return answers


def _follow(generator: Generator, seen: Seen, view: View) -> None:
    """Take the master's events until it ends; a party that dies is an event, and the load is told to stop."""
    measure = seen.run.measure
    deadline = time.monotonic() + ARM_TIMEOUT_S
    while (event := generator.next_event(POLL_S)) is not None:
        _take(event, seen, view)
        if event.get("event") == "start":
            deadline = time.monotonic() + measure.warmup_s + measure.duration_s + measure.drain_s + DELIVER_TIMEOUT_S
        if _look(seen) or _is_cut_short(seen):
            generator.stop_early()
        if time.monotonic() > deadline:
            seen.event("worker_died", "the load did not end in time")
            return
    _judge_end(generator.master, seen)


def _look(seen: Seen) -> bool:
    """Whether a party has died since the last look; then there is an event."""
    found = False
    for code, party in (("server_died", seen.server), ("balancer_died", seen.balancer)):
        if party and not seen.has(code) and (how := party.died()):
            seen.event(code, how)
            found = True
    return found


def _is_cut_short(seen: Seen) -> bool:
    """Whether a level of a search has just shown that it fails; the run then ends on purpose."""
    now_s = time.monotonic()
    if seen.failing is None or seen.cut_short or seen.t0_monotonic_ns is None or now_s < seen.next_look_s:
        return False
    seen.next_look_s = now_s + CUT_INTERVAL_S
    seen.cut_short = seen.failing.look(now_s - seen.t0_monotonic_ns / 1e9)
    return seen.cut_short is not None


def _take(event: Event, seen: Seen, view: View) -> None:
    measure = seen.run.measure
    match event.get("event"):
        case "start":
            seen.t0_monotonic_ns, seen.t0_epoch_us = event["t0_monotonic_ns"], event["t0_epoch_us"]
            assert seen.scraper is not None
            seen.machine.watch("workers", event["pids"])
            edges_s = (measure.warmup_s, measure.warmup_s + measure.duration_s)
            seen.scraper.follow(seen.t0_monotonic_ns, edges_s)
            if seen.power_meter:
                seen.power_meter.follow(seen.t0_monotonic_ns, edges_s)
        case "planned":
            seen.planned = event["requests"]
        case "progress":
            view.live(event)
        case "workers" if seen.workers_from_elsewhere:
            view.stage(f"waiting for workers: {event['ready']} of {event['expected']} are here")
        case "worker_refused":
            view.stage(f"sent away: {event['message']}")
        case "worker_lost":
            seen.event("worker_died", event["message"])
        case "worker_restarted":
            seen.event("worker_restarted", event["message"])
        case "error":
            seen.load_error = event["message"]


def _judge_end(master: Child, seen: Seen) -> None:
    code = master.popen.wait()
    if code and seen.t0_epoch_us is None:
        raise LoadproofError(f"the load did not start: {seen.load_error or f'exit code {code}'}", master.tail())
    if code and not seen.has("worker_died"):
        seen.event("worker_died", seen.load_error or f"the Locust master exited with code {code}")


def _wait_for_log(log: Path, timeout_s: float = 5) -> None:
    """Let the collector catch up with HAProxy's ring: it has when nothing came for a while."""
    deadline = time.monotonic() + timeout_s
    size = -1
    while size != (now := log.stat().st_size) and time.monotonic() < deadline:
        size = now
        time.sleep(4 * LOOK_INTERVAL_S)
