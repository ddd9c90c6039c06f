"""The course of a run: launch, references, load, scrapes, drain, stop; then what was seen goes into its directory."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadproof import rundir
from loadproof.collect.early import EarlyFailure
from loadproof.collect.log_collector import LOOK_INTERVAL_S
from loadproof.collect.power import PowerMeter
from loadproof.collect.scrape import Scraper
from loadproof.errors import LoadproofError
from loadproof.launch import balancer, ceiling, launchers, load, server
from loadproof.launch.balancer import Balancer
from loadproof.launch.endpoints import Endpoints
from loadproof.launch.load import ReferenceFailed
from loadproof.launch.stack import Stack
from loadproof.launch.target import Target
from loadproof.models import Model
from loadproof.plan import Plan, Run
from loadproof.progress import View
from loadproof.run import follow, gather
from loadproof.run.observations import Observations, ServerObserved, Stage
from loadproof_clients.spec import LoadSpec

LOG_TIMEOUT_S: Final = 5
ROOM_BYTES_MIN: Final = 1 << 20
DEATH_TIMEOUT_S: Final = 3


@dataclass(frozen=True)
class RunContext:
    """What outlives the run: the terminal, the controller's endpoints, a stack that runs already."""

    view: View
    endpoints: Endpoints
    stack: Stack | None = None


def measure(
    run: Run,
    run_id: str,
    directory: Path,
    model: Model | None,
    view: View,
    endpoints: Endpoints,
    stack: Stack | None = None,
    plan: Plan | None = None,
) -> None:
    """Run it, here or in a stack, and write its run directory whatever happens.

    Raises LoadproofError when something did not start, KeyboardInterrupt when the user stopped it; what was seen until
    then is in the directory. What goes wrong once the load runs raises nothing: it is an event for the verdict.
    """
    seen = Observations(run, run_id, directory, model)
    if plan and plan.power:
        seen.power_meter = PowerMeter(plan.power)
    if plan and plan.search:
        seen.early_failure = EarlyFailure(run, seen.work)
    seen.logs.mkdir(parents=True)
    seen.work.mkdir()
    try:
        with contextlib.ExitStack() as started:
            _online(seen, started, RunContext(view, endpoints, stack))
    except BaseException as error:
        seen.interrupt(error)
        with contextlib.suppress(Exception):  # the first error is the one to tell; the second is in run.json
            _collect(seen, view)
        if full := _full_disk(error, directory):
            raise full from error
        raise
    _collect(seen, view)


def _full_disk(error: BaseException, directory: Path) -> LoadproofError | None:
    """What is to be told instead where no room was left: the log that would say so was not written either."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None
    if not is_full and not (isinstance(error, LoadproofError) and shutil.disk_usage(directory).free < ROOM_BYTES_MIN):
        return None
    detail = error.detail if isinstance(error, LoadproofError) else ""
    return LoadproofError(f"{directory}: no room is left on its disk; make some, then --resume ({error})", detail)


def _collect(seen: Observations, view: View) -> None:
    """Write the run directory; where not all of it can be written, run.json still says why, if it can be."""
    view.stage("collecting")
    seen.stage = Stage.COLLECTING
    try:
        gather.write(seen)
    except BaseException as error:
        was_written = rundir.read_run(seen.directory) is not None
        seen.interrupt(error)
        with contextlib.suppress(Exception):
            if not was_written:
                gather.write_end(seen)
            if not was_written and isinstance(error, KeyboardInterrupt):  # it is soon done; a second one ends that too
                gather.write(seen)
        raise


def _online(seen: Observations, started: contextlib.ExitStack, context: RunContext) -> None:
    run, view = seen.run, context.view
    _measure_without_load(seen, started, view)
    target = _launch_server(seen, started, context)
    witness = _launch_balancer(seen, started, context, target) if run.load.via == "balancer" else None
    scraper = _begin_scraping(seen, started, context.endpoints, target, witness)
    spec = _spec(seen, context.stack, target, (witness or target).address(run.load.protocol))
    spec_path, payloads = seen.work / "spec.json", seen.work / "payloads.bin"
    rundir.write_text(spec_path, spec.model_dump_json())
    view.stage("preparing payloads and references")
    seen.stage = Stage.PREPARING
    try:
        answers = _references(seen, spec_path, payloads)
    except ReferenceFailed as error:
        seen.references["error"] = str(error)
        if not follow.is_death(seen, DEATH_TIMEOUT_S):  # of the server, which then is the reason
            seen.event("reference_failed", (str(error).splitlines() or ["no reason was given"])[-1])
        return
    view.stage("arming the clients")
    seen.stage = Stage.ARMING
    here = spec.load.processes - spec.load.expect_workers
    generated = load.generate(spec, spec_path, payloads, answers, seen.work, seen.logs, context.endpoints, here)
    with generated as generator:
        interrupted = follow.until_end(generator, seen, view)
    view.stage("reconciling")
    seen.stage = Stage.RECONCILING
    scraper.until_agreed(timeout_s=1 if seen.events else 10)
    assert seen.server is not None
    seen.server.served.append(target.served())
    if witness and not seen.has("balancer_died"):
        _wait_for_log(witness.requests_log)
    # Compose stops the whole stack when one of its containers dies: then that is what happened.
    if interrupted and not (context.stack and any(event["code"] in follow.DEATHS for event in seen.events)):
        raise KeyboardInterrupt


def _measure_without_load(seen: Observations, started: contextlib.ExitStack, view: View) -> None:
    """What is measured while nothing of the run is there yet."""
    if seen.power_meter:
        view.stage("measuring idle power")
        seen.power_meter.idle()
        started.callback(seen.power_meter.stop)
    if seen.run.server.ceiling and seen.model:
        view.stage("measuring the ceiling")
        seen.ceiling = ceiling.measure(seen.run, seen.model, seen.work, seen.logs / "ceiling.log")


def _launch_server(seen: Observations, started: contextlib.ExitStack, context: RunContext) -> Target:
    launcher = launchers.choose(seen.run, seen.model, context.stack, seen.logs / "server.log", seen.campaign)
    context.view.stage(launcher.stage)
    target = launcher.launch()
    observed = seen.server = ServerObserved(target)
    if target.component is not None:
        started.enter_context(target.component)
    target.wait_ready()
    observed.about = target.about()
    observed.served.append(target.served())
    return target


def _launch_balancer(
    seen: Observations, started: contextlib.ExitStack, context: RunContext, target: Target
) -> Balancer:
    context.view.stage("starting the balancer")
    stack = context.stack
    if stack is not None:
        launched = balancer.attach(stack, target.api, seen.logs)
    else:
        launched = balancer.start(target, seen.logs, context.endpoints.host)
    seen.balancer = started.enter_context(launched)
    balancer.require_room(seen.balancer.metrics_url, seen.run.load.clients)
    return seen.balancer


def _begin_scraping(
    seen: Observations,
    started: contextlib.ExitStack,
    endpoints: Endpoints,
    target: Target,
    witness: Balancer | None,
) -> Scraper:
    """The scraper after its first scrape, the start edge: nothing was asked of the server yet."""
    urls = {"server": target.metrics_url, "balancer": witness.metrics_url if witness else None}
    if endpoints.prometheus:
        started.enter_context(endpoints.prometheus.follow({**urls, "clients": endpoints.metrics_url}))
    seen.machine.watch("server", target.pids())
    seen.machine.watch("balancer", witness.component.pids() if witness else [])
    scraper = seen.scraper = Scraper(urls, seen.machine)
    started.callback(scraper.stop)
    scraper.scrape()
    return scraper


def _spec(seen: Observations, stack: Stack | None, target: Target, url: str) -> LoadSpec:
    run = seen.run
    joining = run.load.processes if stack else run.load.expect_workers  # a stack's workers all run already
    chosen = run.load.model_copy(update={"expect_workers": joining})
    return LoadSpec(run=seen.run_id, url=url, model=target.model, load=chosen, measure=run.measure, repeat=run.repeat)


def _references(seen: Observations, spec_path: Path, payloads: Path) -> Path | None:
    """Payloads into their file, reference answers into theirs: from OpenVINO where the model is at hand."""
    log, records = seen.logs / "prepare.log", payloads.with_name("reference.rec")
    answers = payloads.with_name("answers.bin") if seen.run.load.verify else None
    if seen.model is None or answers is None:
        seen.references["source"] = "server" if answers else None
        load.prepare(spec_path, payloads, log, records, answers)
    else:
        seen.references["source"] = "openvino"
        load.prepare(spec_path, payloads, log, records)
        flags = server.openvino_flags(seen.run.server)
        load.refer(seen.model.directory, flags, payloads, answers, seen.logs / "reference.log")
    return answers


def _wait_for_log(log: Path) -> None:
    """Let the collector catch up with HAProxy's ring: it has when nothing came for a while."""
    deadline_s = time.monotonic() + LOG_TIMEOUT_S
    size = -1
    while size != (now := log.stat().st_size) and time.monotonic() < deadline_s:
        size = now
        time.sleep(4 * LOOK_INTERVAL_S)
