"""Takes a run through its stages, from the first worker to the last record."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gevent

from loadproof_clients.load import messages
from loadproof_clients.load.events import say
from loadproof_clients.load.fleet import Node, NodeState, absent
from loadproof_clients.load.inbox import Inbox
from loadproof_clients.load.run_state import RunState, Stage

ARM_TIMEOUT_S: Final = 120.0
DELIVER_TIMEOUT_S: Final = 60.0
T0_AHEAD_S_MIN: Final = 2.0
PROGRESS_NS: Final = 500_000_000
POLL_S: Final = 0.05

log = logging.getLogger("loadproof.master")


class LoadFailed(Exception):
    """The run cannot start or go on; one clear line."""


class Stopped(Exception):
    """Told to stop before anything was sent."""


@dataclass(frozen=True)
class Settings:
    """What the master's command line says of a run, in addition to the spec."""

    out: Path
    workers_timeout_s: float
    watched: bool  # by Locust's web UI
    last: bool  # no other run follows


class Coordinator:
    """One run; `parcels` are what every worker gets, by name."""

    def __init__(
        self, run: RunState, parcels: Mapping[str, bytes], runner: Any, inbox: Inbox, settings: Settings
    ) -> None:
        self._run, self._parcels, self._runner, self._inbox, self._settings = run, parcels, runner, inbox, settings
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=5)  # (elapsed_s, ok): the rate is over 2 s

    def stop(self) -> None:
        """Sends nothing more: the run ends early, with what it has."""
        log.info("told to stop")
        self._run.stopping = True

    def run(self) -> int:
        """Every stage in turn, then the end; the exit code."""
        stages: tuple[tuple[Stage, Callable[[], None]], ...] = (
            (Stage.GATHERING, self._gather),
            (Stage.LOADING, self._load),
            (Stage.CONNECTING, self._connect),
            (Stage.STARTING, self._start),
            (Stage.RUNNING, self._watch),
            (Stage.DELIVERED, self._read_clocks_again),
        )
        try:
            for stage, work in stages:
                self._run.stage = stage
                work()
        except LoadFailed as failure:
            self._run.trouble = str(failure)
        except Stopped:
            log.info("stopped before T0")
        return self._end()

    def _gather(self) -> None:
        expected = self._run.spec.load.processes
        self._wait(lambda: len(self._run.nodes) == expected, self._settings.workers_timeout_s, self._absent)

    def _absent(self) -> str:
        where = messages.address(self._runner.master_bind_host, self._runner.server.port)
        who = absent(self._run.nodes.values(), self._run.spec.load, where)
        return "; ".join(
            [f"{who} within {self._settings.workers_timeout_s:g} s", *self._run.refusals, *self._dropped()]
        )

    def _dropped(self) -> list[str]:
        """Reports that a worker was turned away because its token is another one."""
        return [note.rstrip(".").replace("The master", "the master", 1) for note in self._inbox.notes()]

    def _load(self) -> None:
        nodes = list(self._run.nodes.values())
        senders = [gevent.spawn(self._send_parcels, node) for node in nodes]
        self._wait(
            lambda: all(node.loaded.is_set() for node in nodes),
            ARM_TIMEOUT_S,
            lambda: f"not all workers took the payloads within {ARM_TIMEOUT_S:g} s",
        )
        gevent.joinall(senders)

    def _send_parcels(self, node: Node) -> None:
        sizes = {name: len(parcel) for name, parcel in self._parcels.items()}
        load = {"worker": node.number, "spec": self._run.spec.model_dump_json(), "sizes": sizes}
        self._inbox.send(messages.LOAD, {**load, "watched": self._settings.watched}, node.identity)
        for name, parcel in self._parcels.items():
            for data in messages.parts(parcel):
                node.part_taken.clear()
                self._inbox.send(messages.PART, {"parcel": name, "data": data}, node.identity)
                if not node.part_taken.wait(ARM_TIMEOUT_S):
                    return

    def _connect(self) -> None:
        clients = self._run.spec.load.clients
        self._runner.start(clients, spawn_rate=clients)
        self._wait(
            lambda: all(node.armed.is_set() for node in self._run.nodes.values()),
            ARM_TIMEOUT_S,
            lambda: f"not all clients connected within {ARM_TIMEOUT_S:g} s",
        )
        say("armed")

    def _start(self) -> None:
        run, nodes = self._run, list(self._run.nodes.values())
        try:
            readings = [node.read_clock(self._inbox.send) for node in nodes]
        except TimeoutError as error:
            raise LoadFailed(str(error)) from None
        if run.stopping:
            raise Stopped
        ahead_s = max(T0_AHEAD_S_MIN, 20 * max(reading.round_trip_ns for reading in readings) / 1e9)
        run.t0_ns = time.monotonic_ns() + round(ahead_s * 1e9)
        run.t0_epoch_us = messages.epoch_us_at(run.t0_ns)
        run.stage = Stage.RUNNING  # from the first START on, a worker that fails is lost
        first_client = 0
        for node, reading in zip(nodes, readings, strict=True):
            node.first_client = first_client
            first_client += node.clients
            start = {"t0_ns": run.t0_ns + reading.offset_ns, "first_client": node.first_client}
            self._inbox.send(messages.START, start, node.identity)
            node.heard_s = time.monotonic()
        pids = [node.local_pid for node in nodes if node.local_pid]
        say("start", t0_monotonic_ns=run.t0_ns, t0_epoch_us=run.t0_epoch_us, pids=pids)

    def _watch(self) -> None:
        """Until every worker is done or lost."""
        run, measure = self._run, self._run.spec.measure
        deadline_s = measure.warmup_s + measure.duration_s + measure.drain_s + DELIVER_TIMEOUT_S
        next_ns, is_finishing = run.t0_ns + PROGRESS_NS, False
        while any(node.state is NodeState.RUNNING for node in run.nodes.values()):
            gevent.sleep(POLL_S)
            if run.trouble:
                raise LoadFailed(run.trouble)
            if run.stopping and not is_finishing:
                is_finishing = True
                for node in run.nodes.values():
                    self._inbox.send(messages.FINISH, None, node.identity)
            self._find_the_lost(late=run.elapsed_s() > deadline_s)
            if (now_ns := time.monotonic_ns()) >= next_ns:
                self._progress()
                next_ns = now_ns + PROGRESS_NS

    def _find_the_lost(self, *, late: bool) -> None:
        for node in self._run.nodes.values():
            why = node.dead or node.silent
            if late and not why:
                why = f"worker {node.number} did not deliver all records within {DELIVER_TIMEOUT_S:g} s"
            if why and node.state is NodeState.RUNNING:
                gevent.sleep(POLL_S)  # what it sent before it died is still being read
                if node.state is NodeState.RUNNING:
                    self._inbox.lose(node, why)

    def _progress(self) -> None:
        run, elapsed_s = self._run, self._run.elapsed_s()
        counts = [node.counts for node in run.nodes.values()]
        total = {key: sum(c[key] for c in counts) for key in messages.COUNTS}
        self._seen.append((elapsed_s, total["ok"]))
        (then_s, ok), now = self._seen[0], self._seen[-1]
        rate_rps = (now[1] - ok) / (now[0] - then_s)
        say("progress", phase=run.phase(), elapsed_s=round(elapsed_s, 2), **total, throughput_rps=round(rate_rps, 1))

    def _read_clocks_again(self) -> None:
        """Reads once more the clocks of workers that do not share ours; only then may workers leave."""
        for node in self._run.nodes.values():
            if node.state is not NodeState.LOST and not node.same_clock:
                node.read_clock_again(self._inbox.send)

    def _end(self) -> int:
        """Saves and says how it ended, and lets the workers go."""
        run, nodes = self._run, list(self._run.nodes.values())
        self._inbox.close()
        workers = [node.summary() for node in nodes]
        load = {
            "t0_monotonic_ns": run.t0_ns if run.has_started else None,
            "t0_epoch_us": run.t0_epoch_us if run.has_started else None,
            "workers": workers,
            "stopped_early": run.stopping,
            "notes": self._inbox.notes(),
        }
        (self._settings.out / "load.json").write_text(json.dumps(load, indent=1) + "\n")
        say("end", workers=workers)
        cannot_start = bool(run.trouble) and not run.has_started  # which ends the campaign
        for node in nodes:
            self._inbox.send(messages.OVER, {"last": self._settings.last or cannot_start}, node.identity)
        self._runner.quit()
        lost = [node.why_lost for node in nodes if node.state is NodeState.LOST]
        if message := "; ".join(filter(None, [run.trouble, *lost, *run.left])):
            say("error", message=message)
            return 1
        return 0

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
        """Returns once `condition()` holds; raises LoadFailed on time-out and on a worker's trouble, or Stopped."""
        until_s = time.monotonic() + timeout_s
        while not condition():
            if self._run.stopping:
                raise Stopped
            for trouble in (self._run.trouble, *(node.dead for node in self._run.nodes.values())):
                if trouble:
                    raise LoadFailed(trouble)
            if time.monotonic() > until_s:
                raise LoadFailed(what())
            gevent.sleep(0.01)
