"""The master: gives the workers spec, payloads and T0, gathers their records, and ends with all of them.

`python -m loadproof_clients.load.master --spec SPEC.json --payloads payloads.bin [--answers answers.bin] --out DIR
[--host 127.0.0.1] [--port P] [--workers-timeout S] [--last] [--web PORT] [--metrics PORT]`. The first line of standard
input is the campaign's token. Standard output is JSON lines (events); exit 0 when every worker delivered all its
records, 1 with an `error` event otherwise (what came is saved), 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import logging
import resource
import signal
import sys
from pathlib import Path

import gevent
import locust  # first of those that do I/O: it patches Python for gevent
from locust.env import Environment
from locust.exception import RPCError
from pydantic import ValidationError

from loadproof_clients.load import campaign_token, sockets, web
from loadproof_clients.load.authentication import Authenticator
from loadproof_clients.load.campaign_token import NoToken
from loadproof_clients.load.coordinator import Coordinator, Settings
from loadproof_clients.load.events import say
from loadproof_clients.load.exporter import Exporter
from loadproof_clients.load.inbox import Inbox
from loadproof_clients.load.run_state import RunState
from loadproof_clients.load.spawn import SpawnOnce
from loadproof_clients.load.users import LoadUser
from loadproof_clients.schedule import TraceError, count, read_trace
from loadproof_clients.spec import LoadSpec

log = logging.getLogger("loadproof.master")


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
        authenticator = Authenticator(campaign_token.of_stdin())
        spec = LoadSpec.model_validate_json(args.spec.read_bytes())
        parcels = {"payloads": args.payloads.read_bytes()}
        if args.answers is not None:
            parcels["answers"] = args.answers.read_bytes()
        trace_ns = read_trace(Path(spec.load.trace)) if spec.load.trace is not None else None
        if trace_ns is not None:
            parcels["trace"] = trace_ns.tobytes()
    except (OSError, ValidationError, TraceError, NoToken) as error:
        say("error", message=str(error))
        return 2
    _allow_connections()
    environment = Environment(user_classes=[LoadUser], dispatcher_class=SpawnOnce, host=spec.url)
    sockets.install_master(authenticator)
    try:
        runner = environment.create_master_runner(args.host, args.port)
    except SystemExit:  # Locust's way to say so
        say("error", message=f"--port {args.port}: busy on {args.host}; give another, or 0 for a free one")
        return 1
    except RPCError as error:
        say("error", message=f"--host {args.host}: {error}")
        return 1
    sockets.outlast(runner, authenticator.dropped)
    run = RunState(spec)
    exporter = Exporter(run) if args.metrics is not None else None
    inbox = Inbox(run, runner, args.out, exporter.live.add if exporter else None, authenticator)
    settings = Settings(args.out, args.workers_timeout, watched=args.web is not None, last=args.last)
    coordinator = Coordinator(run, parcels, runner, inbox, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, coordinator.stop)
    if args.web is not None:
        web.serve(environment, args.web)
    try:
        metrics = exporter and exporter.serve(args.host, args.metrics)
    except OSError as error:
        say("error", message=f"--metrics {args.metrics}: {args.host} {error.strerror}; give another port, or 0")
        return 1
    say("listening", port=runner.server.port, metrics=metrics)
    if spec.load.is_open:
        say("planned", requests=count(spec.load, spec.measure, trace_ns, spec.repeat))
    code = coordinator.run()
    if exporter:
        exporter.linger()
    return code


def _allow_connections() -> None:
    """As many as the system lets us have: those of strangers take none from the workers until then."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
