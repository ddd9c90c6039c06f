"""One run, online: launch, references, load, scrapes, drain, stop; then what was seen goes into its directory."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from clients.spec import LoadSpec
from controller.collect import gather
from controller.collect.gather import Seen
from controller.collect.log_collector import LOOK_INTERVAL_S
from controller.collect.scrape import Scraper
from controller.errors import LoadproofError
from controller.launch import balancer, load, server
from controller.launch.balancer import Balancer
from controller.launch.child import Child
from controller.launch.load import Doors, Event, Generator, ReferenceFailed
from controller.launch.server import Target
from controller.models import Model
from controller.plan import Run
from controller.progress import View

POLL_S = 0.2
ARM_TIMEOUT_S = 300  # from the master's start to T0: workers start, get the payloads, connect
DELIVER_TIMEOUT_S = 90  # after the drain: the last records arrive; the master itself gives up earlier


def measure(run: Run, run_id: str, directory: Path, model: Model | None, view: View, doors: Doors) -> None:
    """Run it, and write its run directory whatever happens.

    Raises LoadproofError when something did not start, KeyboardInterrupt when the user stopped it; what was seen until
    then is in the directory. What goes wrong once the load runs raises nothing: it is an event for the verdict.
    """
    seen = Seen(run, run_id, directory, model)
    seen.logs.mkdir(parents=True)
    seen.work.mkdir()
    try:
        with contextlib.ExitStack() as stack:
            _online(run, seen, stack, view, doors)
    except KeyboardInterrupt:
        seen.event("interrupted", "the user stopped it")
        raise
    except LoadproofError as error:
        seen.event("interrupted", str(error).splitlines()[0])
        raise
    finally:
        view.stage("collecting")
        gather.write(seen)


def _online(run: Run, seen: Seen, stack: contextlib.ExitStack, view: View, doors: Doors) -> None:
    view.stage("starting the server")
    target = _start_server(run, seen, stack)
    witness = None
    if run.load.via == "balancer":
        view.stage("starting the balancer")
        witness = stack.enter_context(balancer.start(target, seen.logs, doors.host))
        seen.balancer_command, seen.requests_log = witness.child.command, witness.requests_log
    urls = {"server": target.metrics_url, "balancer": witness.metrics_url if witness else None}
    scraper = seen.scraper = Scraper(urls)
    stack.callback(scraper.stop)
    scraper.scrape()  # the start edge: nothing was asked yet
    url = (witness or target).address(run.load.protocol)
    spec = LoadSpec(run=seen.run_id, url=url, model=target.model, load=run.load, measure=run.measure)
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
    generated = load.generate(spec, spec_path, payloads, answers, seen.work, seen.logs, doors)
    interrupted = False
    with generated as generator:
        try:
            _follow(generator, seen, target, witness, view)
        except KeyboardInterrupt:  # what was measured so far still has to reconcile
            interrupted = True
            view.stage("stopping")
            generator.stop_early()
            _follow(generator, seen, target, witness, view)
    view.stage("reconciling")
    scraper.until_agreed(timeout_s=1 if seen.events else 10)
    if witness and not seen.has("balancer_died"):
        _wait_for_log(witness.requests_log)
    if interrupted:
        raise KeyboardInterrupt


def _start_server(run: Run, seen: Seen, stack: contextlib.ExitStack) -> Target:
    if run.server.launch == "external":
        target = server.find(run.server)
    else:
        assert seen.model is not None
        target = server.start(run.server, seen.model, seen.logs / "server.log")
        assert target.child is not None
        seen.server_command = stack.enter_context(target.child).command
    seen.server_has_metrics = target.metrics_url is not None
    server.wait_ready(target)
    return target


def _references(run: Run, seen: Seen, spec_path: Path, payloads: Path) -> Path | None:
    """Payloads into their file, reference answers into theirs: from OpenVINO where the model is at hand."""
    log, answers = seen.logs / "prepare.log", payloads.with_name("answers.bin")
    if run.load.verify == 0:
        load.prepare(spec_path, payloads, log)
        return None
    if seen.model is None:
        seen.references["source"] = "server"
        load.prepare(spec_path, payloads, log, answers, payloads.with_name("reference.rec"))
    else:
        seen.references["source"] = "openvino"
        load.prepare(spec_path, payloads, log)
        flags = server.openvino_flags(run.server)
        load.refer(seen.model.directory, flags, payloads, answers, seen.logs / "reference.log")
    return answers


def _follow(generator: Generator, seen: Seen, target: Target, witness: Balancer | None, view: View) -> None:
    """Take the master's events until it ends; a party that dies is an event, and the load is told to stop."""
    watched = {"server_died": target.child, "balancer_died": witness.child if witness else None}
    measure = seen.run.measure
    deadline = time.monotonic() + ARM_TIMEOUT_S
    while (event := generator.next_event(POLL_S)) is not None:
        _take(event, seen, view)
        if event.get("event") == "start":
            deadline = time.monotonic() + measure.warmup_s + measure.duration_s + measure.drain_s + DELIVER_TIMEOUT_S
        for code, child in watched.items():
            if child and not seen.has(code) and (how := child.died()):
                seen.event(code, how)
                generator.stop_early()
        if time.monotonic() > deadline:
            seen.event("worker_died", "the load did not end in time")
            return
    _judge_end(generator.master, seen)


def _take(event: Event, seen: Seen, view: View) -> None:
    measure = seen.run.measure
    match event.get("event"):
        case "start":
            seen.t0_monotonic_ns, seen.t0_epoch_us = event["t0_monotonic_ns"], event["t0_epoch_us"]
            assert seen.scraper is not None
            seen.scraper.follow(seen.t0_monotonic_ns, (measure.warmup_s, measure.warmup_s + measure.duration_s))
        case "progress":
            view.live(event)
        case "workers" if seen.run.load.expect_workers:
            view.stage(f"waiting for workers: {event['ready']} of {event['expected']} are here")
        case "worker_lost":
            seen.event("worker_died", event["message"])
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
