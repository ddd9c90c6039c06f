"""A worker: connects to the master, makes its share of the load, and delivers every record before it ends.

`python -m clients.load.worker --host H --port P [--spool DIR]`
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import gevent
import locust  # first of those that do I/O: it patches Python for gevent
import numpy as np
from locust.env import Environment

from clients.load import messages
from clients.load.alarm import Alarm
from clients.load.dispatcher import Dispatcher, wait_until
from clients.load.health import Health
from clients.load.session import Session
from clients.load.transports import prepare
from clients.load.triton_grpc import read_response
from clients.load.users import LoadUser
from clients.spec import LoadSpec
from clients.spool import Spool

TICK_S: Final = 0.5
RESEND_S: Final = 5.0
EARLY_DRAIN_S_MAX: Final = 5.0

log = logging.getLogger("loadproof.worker")


class Worker:
    """One run: what arrives from the master, in order, and the greenlet that runs from T0 to the last record."""

    def __init__(self, environment: Any, runner: Any, spool_directory: Path) -> None:
        self._environment = environment
        self._runner = runner
        self._spool = Spool(spool_directory / f"loadproof-{os.getpid()}-{uuid.uuid4().hex[:8]}.spool")
        self._session: Session | None = None
        self._load: dict[str, Any] = {}
        self._parcels = {"payloads": bytearray(), "answers": bytearray(), "trace": bytearray()}
        self._started = False
        self._health = Health()
        self._ship_ns = 0  # CPU time spent on spooling and shipping records

    def enlist(self) -> None:
        """Registers for the master's messages and says hello."""
        handlers = {
            messages.LOAD: self._on_load,
            messages.PART: self._on_part,
            messages.PING: self._on_ping,
            messages.START: self._on_start,
            messages.CHUNK_TAKEN: self._on_chunk_taken,
            messages.FINISH: self._on_finish,
        }
        for name, handler in handlers.items():
            self._runner.register_message(name, handler)
        self._send(
            messages.HELLO,
            pid=os.getpid(),
            host=socket.gethostname(),
            version=importlib.metadata.version("loadproof"),
            machine=messages.machine(),
            clock=messages.clock(),
            spool=str(self._spool.path.absolute()),
        )

    def _send(self, name: str, **data: Any) -> None:
        self._runner.send_message(name, data)

    def _spawn(self, function: Any, *args: Any) -> None:
        """A greenlet whose death by an exception is told to the master: nobody else would notice."""
        gevent.spawn(function, *args).link_exception(lambda dead: self._fail(repr(dead.exception)))

    def _fail(self, message: str) -> None:
        log.error(message)
        self._send(messages.FAILED, message=message)

    def _on_load(self, environment: Any, msg: Any) -> None:
        self._load = msg.data
        log.info("worker %d", self._load["worker"])

    def _on_part(self, environment: Any, msg: Any) -> None:
        self._parcels[msg.data["parcel"]] += msg.data["data"]
        self._send(messages.PART_TAKEN)
        if all(len(self._parcels[name]) == size for name, size in self._load["sizes"].items()):
            self._spawn(self._arm)

    def _arm(self) -> None:
        """Encodes the payloads, then waits for the users that Locust spawns to connect."""
        try:
            session = self._session = self._encode()
        except ValueError as error:
            self._fail(f"payloads or answers: {error}")
            return
        LoadUser.session = session
        self._send(messages.LOADED)
        runner = self._runner
        while not session.trouble and not (0 < runner.target_user_count == len(session.transports)):
            gevent.sleep(0.01)
        if session.trouble:
            self._fail(session.trouble)
            return
        # Payloads, answers and libraries live as long as the process: out of the collector's reach they cost no pauses.
        gc.collect()
        gc.freeze()
        self._send(messages.ARMED, clients=len(session.transports))

    def _encode(self) -> Session:
        spec = LoadSpec.model_validate_json(self._load["spec"])
        requests = messages.requests_in(bytes(self._parcels["payloads"]))
        answers = [read_response(answer) for answer in messages.responses_in(bytes(self._parcels["answers"]))]
        if not requests:
            raise ValueError("there is no payload")
        if answers and len(answers) != len(requests):
            raise ValueError(f"{len(requests)} payloads with {len(answers)} answers")
        self._trace_ns = np.frombuffer(bytes(self._parcels["trace"]), "<i8")
        self._parcels.clear()
        return Session(
            spec,
            self._load["worker"],
            len(requests),
            answers,
            prepare(spec, requests),
            self._spool,
            self._environment.events.request.fire,
        )

    def _on_ping(self, environment: Any, msg: Any) -> None:
        self._send(messages.PONG, number=msg.data["number"], now_ns=time.monotonic_ns())

    def _on_start(self, environment: Any, msg: Any) -> None:
        if self._session is not None and not self._started:
            self._started = True
            self._session.begin(msg.data["t0_ns"], msg.data["first_client"])
            if self._session.spec.load.is_open:
                self._spawn(Dispatcher(self._session, self._trace_ns).run)
            self._spawn(self._run, self._session)

    def _on_finish(self, environment: Any, msg: Any) -> None:
        self.finish()

    def finish(self) -> None:
        """Ends the run early; without one, ends the program."""
        if self._session is not None and self._started:
            self._session.finish(min(self._session.spec.measure.drain_s, EARLY_DRAIN_S_MAX))
        else:
            self._runner.quit()

    def _on_chunk_taken(self, environment: Any, msg: Any) -> None:
        self._spool.acknowledge(msg.data["expected"])

    def _run(self, session: Session) -> None:
        """From T0 to the last acknowledged record."""
        reporter = gevent.spawn(self._report_forever, session)
        with closing(Alarm()) as alarm:
            wait_until(session.t0_ns, session, alarm)
        session.go.set()
        self._health.begin(session.t0_ns)
        while self._runner.user_count and time.monotonic_ns() < session.give_up_ns:
            gevent.sleep(0.02)
        if self._runner.user_count:
            session.give_up()
        while self._runner.user_count:
            gevent.sleep(0.02)
        reporter.kill()
        while True:
            self._report(session)
            if self._spool.delivered:
                break
            gevent.sleep(0.05)
        if session.trouble:
            self._fail(session.trouble)
            return
        self._send(messages.DONE, sent=session.sent, unsent=session.unsent, records=self._spool.rows)

    def _report_forever(self, session: Session) -> None:
        while True:
            self._report(session)
            gevent.sleep(TICK_S)

    def _report(self, session: Session) -> None:
        """Ships what is due, and says how the run and this process are."""
        began_ns = time.thread_time_ns()
        self._spool.flush()
        for chunk in self._spool.due(time.monotonic(), RESEND_S):
            self._send(messages.CHUNK, number=chunk.number, data=self._spool.read(chunk))
        self._ship_ns += time.thread_time_ns() - began_ns
        counts = session.counts()
        health = self._health.row(verify_us=session.verify_ns / 1000, ship_us=self._ship_ns / 1000)
        if health is not None:
            health |= {"worker": session.worker, **{key: counts[key] for key in ("in_flight", "connections")}}
        self._send(messages.REPORT, **counts, health=health)

    def close(self) -> None:
        """The spool file goes once the master has all of it; else it stays, and the log says where."""
        delivered = self._spool.delivered
        self._spool.close(remove=delivered)
        if not delivered:
            log.error("the master left before it had every record: the rest is in %s", self._spool.path)


def main() -> int:
    """Runs one worker until the master lets it go."""
    parser = argparse.ArgumentParser(prog="python -m clients.load.worker", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where the master listens")
    parser.add_argument("--port", type=int, default=5557)
    parser.add_argument("--spool", type=Path, default=Path(tempfile.gettempdir()), help="directory of the record file")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection is a file; 1024 is the usual limit
    log.info("pid %d, Locust %s, master %s:%d", os.getpid(), locust.__version__, args.host, args.port)
    environment = Environment(user_classes=[LoadUser])
    try:
        runner = environment.create_worker_runner(args.host, args.port)
    except ConnectionError:
        print(f"loadproof: no master answers at {args.host}:{args.port}", file=sys.stderr)
        return 1
    worker = Worker(environment, runner, args.spool)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, worker.finish)
    worker.enlist()
    runner.greenlet.join()
    worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
