"""The master: gives the workers spec, payloads and T0, gathers their records, and ends with all of them.

`python -m loadproof_clients.load.master --spec SPEC.json --payloads payloads.bin [--answers answers.bin] --out DIR
[--host 127.0.0.1] [--port P] [--workers-timeout S] [--last] [--web PORT] [--metrics PORT]`. Standard output is JSON
lines (events); exit 0 when every worker delivered all its records, 1 with an `error` event otherwise (what came is
saved), 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
import locust  # first of those that do I/O: it patches Python for gevent
from locust.env import Environment
from pydantic import ValidationError

from loadproof_clients.load import messages, web
from loadproof_clients.load.exporter import Exporter
from loadproof_clients.load.fleet import Node, SpawnOnce, absent, refusal
from loadproof_clients.load.users import LoadUser
from loadproof_clients.schedule import TraceError, count, read_trace
from loadproof_clients.spec import LoadSpec

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


def say(event: str, **fields: Any) -> None:
    """One event on standard output."""
    print(json.dumps({"event": event, **fields}), flush=True)


class Master:
    """One run. Message handlers only take note; `run` is the story. Only with --metrics it has an exporter."""

    def __init__(self, spec: LoadSpec, parcels: dict[str, bytes], runner: Any, args: argparse.Namespace) -> None:
        self._spec = spec
        self._timeout_s: float = args.workers_timeout
        self._parcels = parcels
        self._out = out = args.out
        self._runner = runner
        self._last: bool = args.last
        self._watched: bool = args.web is not None
        self._refusals: list[str] = []
        self._left: list[str] = []  # who ended before it should have, and delivered all the same
        self._nodes: dict[str, Node] = {}
        self.exporter = Exporter(spec, self._nodes, self._phase) if args.metrics is not None else None
        self._trouble: str | None = None
        self._t0_ns: int | None = None
        self._t0_epoch_us: int | None = None
        self._stopped = False
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=5)  # (elapsed_s, ok): the rate is over 2 s
        (out / "records").mkdir(parents=True)
        self._health = (out / "generator.jsonl").open("x", buffering=1)
        handlers: dict[str, Callable[[Any, Any], Any]] = {
            messages.HELLO: self._on_hello,
            messages.PART_TAKEN: lambda node, data: node.part_taken.set(),
            messages.LOADED: lambda node, data: node.loaded.set(),
            messages.ARMED: self._on_armed,
            messages.PONG: lambda node, data: node.pongs.put((data["number"], data["now_ns"], time.monotonic_ns())),
            messages.REPORT: self._on_report,
            messages.CHUNK: self._on_chunk,
            messages.DONE: self._on_done,
            messages.FAILED: self._on_failed,
        }
        for name, handler in handlers.items():
            runner.register_message(name, self._hear(name, handler))

    def stop(self) -> None:
        """Sends nothing more: the run ends early, with what it has."""
        log.info("told to stop")
        self._stopped = True

    def run(self) -> int:
        """From the first worker to the last record; the exit code."""
        try:
            self._gather()
            self._arm()
            self._start()
            self._watch()
            self._read_clocks_again()
        except LoadFailed as failure:
            self._trouble = str(failure)
        except Stopped:
            log.info("stopped before T0")
        return self._end()

    # what the workers say

    def _hear(self, name: str, handler: Any) -> Any:
        def listen(environment: Any, msg: Any) -> None:
            if name == messages.HELLO:
                handler(msg.node_id, msg.data)
            elif (node := self._nodes.get(msg.node_id)) and node.lost is None:
                node.heard_s = time.monotonic()
                try:
                    handler(node, msg.data)
                except (OSError, ValueError) as error:  # Locust would only log it; a full disk ends the run
                    self._trouble = self._trouble or f"worker {node.number}, {name}: {error}"

        return listen

    def _on_hello(self, identity: str, data: dict[str, Any]) -> None:
        refused = refusal(data, self._nodes.values(), self._spec.load)
        if refused is not None:
            log.warning("%s", refused.message)
            self._runner.clients.pop(identity, None)
            self._send(messages.REFUSED, refused._asdict(), identity)
            self._send("quit", None, identity)
            if not refused.again:
                self._refusals.append(refused.message)
                say("worker_refused", message=refused.message)
            elif back := next((node for node in self._nodes.values() if node.lost and node.host == data["host"]), None):
                say("worker_restarted", message=f"worker {back.number} of {back.host} was lost and came again")
            return
        number = len(self._nodes) + 1
        records = self._out / "records" / f"worker-{number}.rec"
        tell = self.exporter.live.add if self.exporter else None
        self._nodes[identity] = Node(identity, number, data, records, tell)
        say("workers", ready=number, expected=self._spec.load.processes)

    def _on_armed(self, node: Node, data: dict[str, Any]) -> None:
        node.clients = data["clients"]
        node.armed.set()

    def _on_report(self, node: Node, data: dict[str, Any]) -> None:
        health = data.pop("health")
        node.counts = data
        if health is not None:
            node.health = health
            self._health.write(json.dumps(health) + "\n")

    def _on_chunk(self, node: Node, data: dict[str, Any]) -> None:
        expected = node.receiver.receive(data["number"], data["data"])
        self._send(messages.CHUNK_TAKEN, {"expected": expected}, node.identity)

    def _on_done(self, node: Node, data: dict[str, Any]) -> None:
        node.counts |= {"sent": data["sent"], "unsent": data["unsent"], "in_flight": 0}
        node.done = data["sent"] + data["unsent"] == data["records"] == node.receiver.rows
        if not node.done:
            self._lose(node, f"worker {node.number}: {data}, but {node.receiver.rows} records arrived")
        elif data["early"] and not self._stopped:
            self._left.append(f"worker {node.number} (pid {node.pid} on {node.host}) was told to stop there")
            say("worker_lost", worker=node.number, message=self._left[-1])

    def _on_failed(self, node: Node, data: dict[str, Any]) -> None:
        if self._t0_ns is None:
            self._trouble = self._trouble or f"worker {node.number}: {data['message']}"
        else:
            self._lose(node, f"worker {node.number}: {data['message']}")

    # the stages

    def _send(self, name: str, data: Any, identity: str) -> None:
        self._runner.send_message(name, data, identity)

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
        """Returns once `condition()` holds; raises LoadFailed on time-out and on a worker's trouble, or Stopped."""
        until_s = time.monotonic() + timeout_s
        while not condition():
            if self._stopped:
                raise Stopped
            for trouble in (self._trouble, *(node.dead for node in self._nodes.values())):
                if trouble:
                    raise LoadFailed(trouble)
            if time.monotonic() > until_s:
                raise LoadFailed(what())
            gevent.sleep(0.01)

    def _gather(self) -> None:
        expected = self._spec.load.processes
        self._wait(lambda: len(self._nodes) == expected, self._timeout_s, self._absent)

    def _absent(self) -> str:
        where = f"{self._runner.master_bind_host}:{self._runner.server.port}"
        who = absent(self._nodes.values(), self._spec.load, where)
        return "; ".join([f"{who} within {self._timeout_s:g} s", *self._refusals])

    def _arm(self) -> None:
        nodes = list(self._nodes.values())
        senders = [gevent.spawn(self._load, node) for node in nodes]
        self._wait(
            lambda: all(n.loaded.is_set() for n in nodes),
            ARM_TIMEOUT_S,
            lambda: f"not all workers took the payloads within {ARM_TIMEOUT_S:g} s",
        )
        gevent.joinall(senders)
        clients = self._spec.load.clients
        self._runner.start(clients, spawn_rate=clients)
        self._wait(
            lambda: all(n.armed.is_set() for n in nodes),
            ARM_TIMEOUT_S,
            lambda: f"not all clients connected within {ARM_TIMEOUT_S:g} s",
        )
        say("armed")

    def _load(self, node: Node) -> None:
        sizes = {name: len(parcel) for name, parcel in self._parcels.items()}
        load = {"worker": node.number, "spec": self._spec.model_dump_json(), "sizes": sizes, "watched": self._watched}
        self._send(messages.LOAD, load, node.identity)
        for name, parcel in self._parcels.items():
            for data in messages.parts(parcel):
                node.part_taken.clear()
                self._send(messages.PART, {"parcel": name, "data": data}, node.identity)
                if not node.part_taken.wait(ARM_TIMEOUT_S):
                    return

    def _start(self) -> None:
        nodes = list(self._nodes.values())
        try:
            readings = [node.read_clock(self._send) for node in nodes]
        except TimeoutError as error:
            raise LoadFailed(str(error)) from None
        if self._stopped:
            raise Stopped
        ahead_s = max(T0_AHEAD_S_MIN, 20 * max(reading.round_trip_ns for reading in readings) / 1e9)
        self._t0_ns = t0_ns = time.monotonic_ns() + round(ahead_s * 1e9)
        first_client = 0
        for node, reading in zip(nodes, readings, strict=True):
            node.first_client = first_client
            first_client += node.clients
            start = {"t0_ns": t0_ns + reading.offset_ns, "first_client": node.first_client}
            self._send(messages.START, start, node.identity)
            node.heard_s = time.monotonic()
        self._t0_epoch_us = messages.epoch_us_at(t0_ns)
        pids = [node.local_pid for node in nodes if node.local_pid]
        say("start", t0_monotonic_ns=t0_ns, t0_epoch_us=self._t0_epoch_us, pids=pids)

    def _watch(self) -> None:
        """Until every worker is done or lost."""
        assert self._t0_ns is not None
        measure = self._spec.measure
        span_s = measure.warmup_s + measure.duration_s + measure.drain_s
        deadline_ns = self._t0_ns + round((span_s + DELIVER_TIMEOUT_S) * 1e9)
        next_ns, told = self._t0_ns + PROGRESS_NS, False
        while not all(node.over for node in self._nodes.values()):
            gevent.sleep(POLL_S)
            if self._trouble:
                raise LoadFailed(self._trouble)
            if self._stopped and not told:
                told = True
                for node in self._nodes.values():
                    self._send(messages.FINISH, None, node.identity)
            now_ns = time.monotonic_ns()
            self._find_the_lost(late=now_ns > deadline_ns)
            if now_ns >= next_ns:
                self._progress((now_ns - self._t0_ns) / 1e9)
                next_ns = now_ns + PROGRESS_NS

    def _read_clocks_again(self) -> None:
        """Of those who read another clock than this process; they are let go only after this."""
        for node in self._nodes.values():
            if node.lost is None and not node.same_clock:
                node.read_clock_again(self._send)

    def _find_the_lost(self, *, late: bool) -> None:
        for node in self._nodes.values():
            why = node.dead or node.silent
            if late and not why:
                why = f"worker {node.number} did not deliver all records within {DELIVER_TIMEOUT_S:g} s"
            if why and not node.over:
                gevent.sleep(POLL_S)  # what it sent before it died is still being read
                if not node.over:
                    self._lose(node, why)

    def _progress(self, elapsed_s: float) -> None:
        counts = [node.counts for node in self._nodes.values()]
        total = {key: sum(c[key] for c in counts) for key in messages.COUNTS}
        self._seen.append((elapsed_s, total["ok"]))
        (then_s, ok), now = self._seen[0], self._seen[-1]
        rate_rps = (now[1] - ok) / (now[0] - then_s)
        say("progress", phase=self._phase(), elapsed_s=round(elapsed_s, 2), **total, throughput_rps=round(rate_rps, 1))

    def _phase(self) -> str:
        """Where the run is now: one of exporter.PHASES."""
        elapsed_s = -1.0 if self._t0_ns is None else (time.monotonic_ns() - self._t0_ns) / 1e9
        if elapsed_s < 0:
            return "arming"
        measure = self._spec.measure
        past_s = elapsed_s - measure.warmup_s
        return "warmup" if past_s < 0 else "measure" if past_s < measure.duration_s and not self._stopped else "drain"

    def _lose(self, node: Node, why: str) -> None:
        if node.lost is None:
            node.lost = why
            node.done = False
            self._runner.clients.pop(node.identity, None)  # Locust would start its users again after a minute
            self._send("quit", None, node.identity)
            node.recover()
            say("worker_lost", worker=node.number, message=node.lost)

    def _end(self) -> int:
        """Saves and says how it ended, and lets the workers go."""
        nodes = list(self._nodes.values())
        lost = [node.lost for node in nodes if node.lost]
        for node in nodes:
            node.receiver.close()
        self._health.close()
        workers = [node.summary() for node in nodes]
        load = {
            "t0_monotonic_ns": self._t0_ns,
            "t0_epoch_us": self._t0_epoch_us,
            "workers": workers,
            "stopped_early": self._stopped,
        }
        (self._out / "load.json").write_text(json.dumps(load, indent=1) + "\n")
        say("end", workers=workers)
        last = self._last or (self._t0_ns is None and self._trouble is not None)  # what cannot start ends the campaign
        for node in nodes:
            self._send(messages.OVER, {"last": last}, node.identity)
        self._runner.quit()
        if message := "; ".join(filter(None, [self._trouble, *lost, *self._left])):
            say("error", message=message)
            return 1
        return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadproof_clients.load.master", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--payloads", type=Path, required=True)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen for workers")
    parser.add_argument("--port", type=int, default=0, help="0: a free one; the event `listening` says which")
    parser.add_argument("--workers-timeout", type=float, default=60, metavar="S", help="how long to wait for them")
    parser.add_argument("--last", action="store_true", help="no other run follows for workers from elsewhere")
    parser.add_argument("--web", type=int, metavar="PORT", help="Locust's web UI on 127.0.0.1, to watch only")
    parser.add_argument(
        "--metrics", type=int, metavar="PORT", help="live metrics for Prometheus on --host; 0: as --port"
    )
    return parser.parse_args()


def main() -> int:
    """Runs one load."""
    args = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    log.info("Locust %s", locust.__version__)
    try:
        spec = LoadSpec.model_validate_json(args.spec.read_bytes())
        parcels = {"payloads": args.payloads.read_bytes()}
        if args.answers is not None:
            parcels["answers"] = args.answers.read_bytes()
        trace_ns = read_trace(Path(spec.load.trace)) if spec.load.trace is not None else None
        if trace_ns is not None:
            parcels["trace"] = trace_ns.tobytes()
    except (OSError, ValidationError, TraceError) as error:
        say("error", message=str(error))
        return 2
    environment = Environment(user_classes=[LoadUser], dispatcher_class=SpawnOnce, host=spec.url)
    try:
        runner = environment.create_master_runner(args.host, args.port)
    except SystemExit:  # Locust's way to say so
        say("error", message=f"--port {args.port}: busy on {args.host}; give another, or 0 for a free one")
        return 1
    master = Master(spec, parcels, runner, args)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, master.stop)
    if args.web is not None:
        web.serve(environment, args.web)
    try:
        metrics = master.exporter and master.exporter.serve(args.host, args.metrics)
    except OSError as error:
        say("error", message=f"--metrics {args.metrics}: {args.host} {error.strerror}; give another port, or 0")
        return 1
    say("listening", port=runner.server.port, metrics=metrics)
    if spec.load.is_open:
        say("planned", requests=count(spec.load, spec.measure, trace_ns, spec.repeat))
    code = master.run()
    if master.exporter:
        master.exporter.linger()
    return code


if __name__ == "__main__":
    sys.exit(main())
