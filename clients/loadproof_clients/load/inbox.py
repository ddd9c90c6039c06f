"""What the workers' messages mean for the run: the handlers take note, and send only what answers a message."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from loadproof_clients.load import messages
from loadproof_clients.load.authentication import Authenticator
from loadproof_clients.load.events import say
from loadproof_clients.load.fleet import Node, NodeState, refusal
from loadproof_clients.load.plausible import Plausible
from loadproof_clients.load.run_state import RunState
from loadproof_clients.spool import BadRecords

HEALTH_S_MIN: Final = 0.5  # between two rows of a worker, which sends one each second

log = logging.getLogger("loadproof.master")


class Inbox:
    """Registers a handler for each message; records go below `out`, and to `count` as well where it is given."""

    def __init__(
        self, run: RunState, runner: Any, out: Path, count: Callable[[bytes], None] | None, authenticator: Authenticator
    ) -> None:
        self._run, self._runner, self._out, self._count = run, runner, out, count
        self._authenticator = authenticator
        authenticator.on_flood = self._on_flood
        (out / "records").mkdir(parents=True)
        self._health = (out / "generator.jsonl").open("x", buffering=1)
        handlers: dict[str, Callable[[Node, Any], None]] = {
            messages.PART_TAKEN: lambda node, data: node.part_taken.set(),
            messages.LOADED: lambda node, data: node.loaded.set(),
            messages.ARMED: self._on_armed,
            messages.PONG: lambda node, data: node.pongs.put((data["number"], data["now_ns"], time.monotonic_ns())),
            messages.REPORT: self._on_report,
            messages.CHUNK: self._on_chunk,
            messages.DONE: self._on_done,
            messages.FAILED: self._on_failed,
        }
        runner.register_message(messages.HELLO, lambda environment, msg: self._on_hello(msg.node_id, msg.data))
        for name, handler in handlers.items():
            runner.register_message(name, self._listener(name, handler))

    def send(self, name: str, data: Any, identity: str) -> None:
        """A message to one worker."""
        self._runner.send_message(name, data, identity)

    def lose(self, node: Node, why: str) -> None:
        """Nothing more is expected of the worker; what it left on this machine is recovered."""
        if node.state is NodeState.LOST:
            return
        node.state, node.why_lost = NodeState.LOST, why
        self._runner.clients.pop(node.identity, None)  # Locust would start its users again after a minute
        self.send("quit", None, node.identity)
        self._authenticator.keep_out(node.identity)
        node.recover()
        say("worker_lost", worker=node.number, message=node.why_lost)

    def notes(self) -> list[str]:
        """Sentences about what was dropped."""
        return self._authenticator.dropped.notes()

    def close(self) -> None:
        """Ends the files."""
        for node in self._run.nodes.values():
            node.receiver.close()
        self._health.close()

    def _listener(self, name: str, handler: Callable[[Node, Any], None]) -> Callable[[Any, Any], None]:
        def listen(environment: Any, msg: Any) -> None:
            node = self._run.nodes.get(msg.node_id)
            if node is None or node.state is NodeState.LOST:
                return
            node.heard_s = time.monotonic()
            try:
                handler(node, msg.data)
            except BadRecords as error:
                self._authenticator.dropped.bad(f"{name}: {error}")
                self._give_up(node, f"worker {node.number} sent records that cannot be: {error}")
            except (OSError, ValueError) as error:  # Locust would only log it; a full disk ends the run
                self._run.fail(f"worker {node.number}, {name}: {error}")

        return listen

    def _give_up(self, node: Node, why: str) -> None:
        """After T0 an implausible worker counts as lost; before T0 it fails the run."""
        if self._run.has_started:
            self.lose(node, why)
        else:
            self._run.fail(why)

    def _on_flood(self, identity: str) -> None:
        if node := self._run.nodes.get(identity):
            self._give_up(node, f"worker {node.number} sent more messages than a worker does")

    def _fault(self, plausible: Plausible, node: Node, data: bytes) -> str | None:
        if not self._run.has_started:
            return "there was no load yet"
        return plausible.fault(data, node.first_client, node.clients, time.monotonic_ns() - self._run.t0_ns)

    def _on_hello(self, identity: str, data: dict[str, Any]) -> None:
        run = self._run
        if identity in run.nodes:
            self._authenticator.dropped.bad("a worker that says hello again")
            return
        if (refused := refusal(data, run.nodes.values(), run.spec.load)) is None:
            number = len(run.nodes) + 1
            fault = partial(self._fault, Plausible(run.spec))
            run.nodes[identity] = Node(identity, number, data, self._out, self._count, fault)
            load = run.spec.load
            say("workers", ready=number, expected=load.processes, joining=load.expect_workers)
            return
        log.warning("%s", refused.message)
        self._runner.clients.pop(identity, None)
        self.send(messages.REFUSED, refused._asdict(), identity)
        self.send("quit", None, identity)
        lost = (node for node in run.nodes.values() if node.state is NodeState.LOST)
        if not refused.again:
            run.refusals.append(refused.message)
            say("worker_refused", message=refused.message)
        elif back := next((node for node in lost if node.host == data["host"]), None):
            say("worker_restarted", message=f"worker {back.number} of {back.host} was lost and came again")

    def _on_armed(self, node: Node, data: dict[str, Any]) -> None:
        others = sum(one.clients for one in self._run.nodes.values() if one is not node)
        if not 0 < data["clients"] <= self._run.spec.load.clients - others or node.armed.is_set():
            raise ValueError(f"{data['clients']:,} clients are not its share of {self._run.spec.load.clients:,}")
        node.clients = data["clients"]
        node.armed.set()

    def _on_report(self, node: Node, data: dict[str, Any]) -> None:
        health = data.pop("health")
        node.counts = data
        if health is not None and node.heard_s - node.health_s >= HEALTH_S_MIN:
            node.health = {**health, "worker": node.number}
            node.health_s = node.heard_s
            self._health.write(json.dumps(node.health) + "\n")

    def _on_chunk(self, node: Node, data: dict[str, Any]) -> None:
        expected = node.receiver.receive(data["number"], data["data"])
        self.send(messages.CHUNK_TAKEN, {"expected": expected}, node.identity)

    def _on_done(self, node: Node, data: dict[str, Any]) -> None:
        node.counts |= {"sent": data["sent"], "unsent": data["unsent"], "in_flight": 0}
        if not data["sent"] + data["unsent"] == data["records"] == node.receiver.rows:
            self.lose(node, f"worker {node.number}: {data}, but {node.receiver.rows} records arrived")
            return
        node.state = NodeState.DONE
        if data["early"] and not self._run.stopping:
            message = f"worker {node.number} (pid {node.pid} on {node.host}) was told to stop there"
            self._run.left.append(message)
            say("worker_lost", worker=node.number, message=message)

    def _on_failed(self, node: Node, data: dict[str, Any]) -> None:
        message = f"worker {node.number}: {data['message']}"
        if self._run.has_started:
            self.lose(node, message)
        else:
            self._run.fail(message)
