"""A worker: connects to the master, makes its share of the load, and delivers every record before it ends.

`python -m loadproof_clients.load.worker --host H --port P --spool DIR`: as the controller starts it; the first line of
standard input is the campaign's token.

`python -m loadproof_clients.load.worker --host H --port P --wait S [--once] [--token-file PATH]`: it comes from
elsewhere, waits so long for a master, and serves run after run of its campaign. The token is in PATH or in
LOADPROOF_TOKEN. Exit codes then: 0 served, 1 no master came, 2 refused, or without a token.
"""

from __future__ import annotations

import argparse
import gc
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
from typing import Any, Final, NoReturn

import gevent
import locust.runners  # first of those that do I/O: it patches Python for gevent
import numpy as np
from locust.env import Environment

from loadproof_clients.load import campaign_token, master_probe, messages, sockets
from loadproof_clients.load.alarm import Alarm
from loadproof_clients.load.campaign_token import NoToken
from loadproof_clients.load.dispatcher import LOST_NS, Dispatcher, wait_until
from loadproof_clients.load.health import Health
from loadproof_clients.load.session import Session
from loadproof_clients.load.users import LoadUser
from loadproof_clients.records import LOST
from loadproof_clients.spec import LoadSpec
from loadproof_clients.spool import Spool, spool_path
from loadproof_clients.tensors import files
from loadproof_clients.transport import Failure
from loadproof_clients.transports import prepare

TICK_S: Final = 0.5
RESEND_S: Final = 5.0
EARLY_DRAIN_S_MAX: Final = 5.0
MASTER_SILENT_S_MAX: Final = 20  # Locust's 60 s are a long time to load a server without a master
TOLD: Final = (signal.SIGTERM, signal.SIGINT)  # to stop

log = logging.getLogger("loadproof.worker")


class Worker:
    """One run: what arrives from the master, in order, and the greenlet that runs from T0 to the last record."""

    def __init__(self, environment: Any, runner: Any, spool: Path, *, joined: bool) -> None:
        self.hangs = False  # a client library that does not close may keep the process from its end
        self.told_to_stop = False
        self.refused: dict[str, Any] | None = None  # messages.REFUSED
        self.last = False  # no other run follows
        self._joined = joined
        self._environment = environment
        self._runner = runner
        self._spool = Spool(spool)
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
            messages.REFUSED: self._on_refused,
            messages.OVER: self._on_over,
        }
        for name, handler in handlers.items():
            self._runner.register_message(name, handler)
        self._send(
            messages.HELLO,
            pid=os.getpid(),
            host=socket.gethostname(),
            version=messages.version(),
            machine=messages.machine(),
            clock=messages.clock(),
            joined=self._joined,
        )

    def _send(self, name: str, **data: Any) -> None:
        self._runner.send_message(name, data)

    def _spawn(self, function: Any, *args: Any) -> None:
        """A greenlet; an exception that ends it is reported to the master, as nothing else would notice."""
        gevent.spawn(function, *args).link_exception(lambda dead: self._fail(repr(dead.exception)))

    def _fail(self, message: str) -> None:
        log.error(message)
        self._send(messages.FAILED, message=message)

    def _on_load(self, environment: Any, msg: Any) -> None:
        self._load = msg.data
        log.info("worker %d", self._load["worker"])

    def _on_part(self, environment: Any, msg: Any) -> None:
        name = msg.data["parcel"]
        self._parcels[name] += msg.data["data"]
        if len(self._parcels[name]) > self._load["sizes"].get(name, 0):
            self._parcels[name].clear()
            self._fail(f"more of the {name} came than there is")
            return
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
        while not session.trouble and not (0 < runner.target_user_count == len(session.clients)):
            gevent.sleep(0.01)
        if session.trouble:
            self._fail(session.trouble)
            return
        # Payloads, answers and libraries live as long as the process: out of the collector's reach they cost no pauses.
        gc.collect()
        gc.freeze()
        self._send(messages.ARMED, clients=len(session.clients))

    def _encode(self) -> Session:
        spec = LoadSpec.model_validate_json(self._load["spec"])
        payloads, answers = (files.loads(bytes(self._parcels[name])) for name in ("payloads", "answers"))
        if not payloads:
            raise ValueError("there is no payload")
        if answers and len(answers) != len(payloads):
            raise ValueError(f"{len(payloads)} payloads with {len(answers)} answers")
        self._trace_ns = np.frombuffer(bytes(self._parcels["trace"]), "<i8")
        self._parcels.clear()
        return Session(
            spec,
            self._load["worker"],
            len(payloads),
            answers,
            prepare(spec, payloads),
            self._spool,
            self._environment.events.request.fire if self._load["watched"] else None,
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

    def _on_refused(self, environment: Any, msg: Any) -> None:
        log.warning(msg.data["message"])
        self.refused = msg.data

    def _on_over(self, environment: Any, msg: Any) -> None:
        self.last = msg.data["last"]

    def _on_finish(self, environment: Any, msg: Any) -> None:
        self._finish()

    def stop(self) -> None:
        """Told to by a signal: ends the run early, and then the program."""
        self.told_to_stop = True
        self._finish()

    def _finish(self) -> None:
        if self._session is not None and self._started:
            self._session.finish(min(self._session.spec.measure.drain_s, EARLY_DRAIN_S_MAX))
        else:
            self._fail("stopped before the run began")
            gevent.sleep(0.1)  # for the message to leave
            self._runner.quit()

    def _on_chunk_taken(self, environment: Any, msg: Any) -> None:
        self._spool.acknowledge(msg.data["expected"])

    def _run(self, session: Session) -> None:
        """From T0 to the last acknowledged record."""
        planned_end_ns = session.end_ns
        reporter = gevent.spawn(self._report_forever, session)
        with closing(Alarm()) as alarm:
            wait_until(session.t0_ns, session, alarm)
        session.go.set()
        self._health.begin(session.t0_ns)
        self._wait_for_users(session)
        reporter.kill()
        while True:
            self._report(session)
            if self._spool.delivered:
                break
            gevent.sleep(0.05)
        if session.trouble:
            self._fail(session.trouble)
            return
        early = session.end_ns < planned_end_ns
        self._send(messages.DONE, sent=session.sent, unsent=session.unsent, records=self._spool.rows, early=early)

    def _wait_for_users(self, session: Session) -> None:
        """Until all have ended: by themselves, given up when the drain is over, or at last without their library.

        A client whose library does not even close is left to its own: all of its requests have a record by then.
        """
        runner = self._runner
        while runner.user_count and time.monotonic_ns() < session.give_up_ns:
            gevent.sleep(0.02)
        if runner.user_count:
            session.give_up()
        while runner.user_count and time.monotonic_ns() < session.give_up_ns + LOST_NS:
            gevent.sleep(0.02)
        if not session.spec.load.is_open:  # there the dispatcher does it, and its users end then
            for greenlet in list(runner.user_greenlets):
                gevent.kill(greenlet, Failure(LOST, "the client library never said how it ended"))
        while runner.user_count and (session.in_flight or time.monotonic_ns() < session.give_up_ns + 2 * LOST_NS):
            gevent.sleep(0.02)
        self.hangs = runner.user_count > 0

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
        sums = {"verify_us": session.verify_ns / 1000, "ship_us": self._ship_ns / 1000, "held": session.held}
        health = self._health.row(**sums)
        if health is not None:
            health |= {"worker": session.worker, "late_ms": round(session.latest_ns / 1e6, 2)}
            health |= {key: counts[key] for key in ("in_flight", "connections")}
            session.latest_ns = 0
        self._send(messages.REPORT, **counts, health=health)

    def close(self) -> None:
        """The spool file goes once the master has all of it; else it stays, and the log says where."""
        delivered = self._spool.delivered
        self._spool.close(remove=delivered)
        if not delivered:
            log.error("the master left before it had every record: the rest is in %s", self._spool.path)


def main() -> int:
    """Runs one worker until the master lets it go; one from elsewhere until its campaign does."""
    parser = argparse.ArgumentParser(prog="python -m loadproof_clients.load.worker", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where the master listens")
    parser.add_argument("--port", type=int, default=5557)
    parser.add_argument("--spool", type=Path, metavar="DIR", help="of the record file; the master's --out")
    parser.add_argument("--wait", type=float, metavar="S", help="from elsewhere: how long to wait for a master")
    parser.add_argument("--token-file", type=Path, metavar="PATH", help="with --wait: has the campaign's token")
    parser.add_argument("--once", action="store_true", help="with --wait: leave after one run")
    parser.add_argument("--served", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    _leave_when_told()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
    joins = args.wait is not None
    try:
        if joins:
            campaign_token.require(args.token_file)
            if not master_probe.wait_for(args.host, args.port, args.wait):
                return _alone(args)
        token = campaign_token.of_joining(args.token_file) if joins else campaign_token.of_stdin()
    except NoToken as error:
        return _refused(str(error))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection is a file; 1024 is the usual limit
    where = messages.address(args.host, args.port)
    log.info("pid %d, Locust %s, master %s", os.getpid(), locust.__version__, where)
    locust.runners.MASTER_HEARTBEAT_TIMEOUT = MASTER_SILENT_S_MAX
    environment = Environment(user_classes=[LoadUser])
    sockets.install_worker(token)
    try:
        runner = environment.create_worker_runner(args.host, args.port)
    except ConnectionError:
        print(f"loadproof: no master answers at {where}", file=sys.stderr)
        return 1
    except sockets.TokenRefused:
        return _refused(f"the master at {where} has another token than this worker")
    worker = Worker(environment, runner, _spool(args.spool), joined=joins)
    for number in TOLD:
        gevent.signal_handler(number, worker.stop)
    worker.enlist()
    runner.greenlet.join()
    worker.close()
    return _farewell(worker, args)


def _leave_when_told() -> None:
    """A signal ends the process at once: there is nothing to end well."""
    for number in TOLD:
        signal.signal(number, lambda number, _: os._exit(128 + number))


def _spool(directory: Path | None) -> Path:
    if directory is not None:
        return spool_path(directory, os.getpid())
    return Path(tempfile.gettempdir()) / f"loadproof-{os.getpid()}-{uuid.uuid4().hex[:8]}.spool"


def _refused(why: str) -> int:
    print(f"loadproof: {why}", file=sys.stderr)
    return 2


def _alone(args: argparse.Namespace) -> int:
    where = messages.address(args.host, args.port)
    if args.served:
        log.info("no other run came to %s within %g s: leaving", where, args.wait)
        return 0
    print(
        f"loadproof: no master listened at {where} within {args.wait:g} s; start one there with "
        f"`loadproof run PLAN --listen {where}`, or wait longer with --wait",
        file=sys.stderr,
    )
    return 1


def _farewell(worker: Worker, args: argparse.Namespace) -> int:
    """The exit code; one from elsewhere begins anew where another run may follow, as a process without a past."""
    refused, stays = worker.refused, args.wait is not None and not args.once
    if refused and not (stays and refused["again"]):
        return _refused(refused["message"])
    if stays and not worker.last:
        _leave_when_told()
        gevent.sleep(0.01)  # for a signal that came while gevent's loop was not running
        if not worker.told_to_stop:
            _begin_anew(args, bool(refused))
    if worker.hangs:
        os._exit(0)
    return 0


def _begin_anew(args: argparse.Namespace, is_refused: bool) -> NoReturn:
    if is_refused:
        master_probe.wait_until_gone(args.host, args.port)
    served = ["--served"] if not (is_refused or args.served) else []
    signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)  # until the new program can take them: none is lost in between
    os.execv(sys.executable, [sys.executable, "-m", "loadproof_clients.load.worker", *sys.argv[1:], *served])


if __name__ == "__main__":
    sys.exit(main())
