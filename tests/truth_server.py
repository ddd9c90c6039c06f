"""A small real KServe server (gRPC, REST, /metrics) whose log is the ground truth, and which lies on demand.

    python -m tests.truth_server --port 9000 --rest-port 8000 --log truth.jsonl --delay-ms 8 --stall-ms 200

prints its two ports as one JSON line and serves until SIGTERM. Its model, `double`, answers y = 2 x (FP32, any shape).
Each request becomes a line of the log: id, arrival, begin of service, its end by the model's clock, and departure
(monotonic ns; null where there was none), protocol, the client's address, and what was done to it. One asyncio loop
serves all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.truth import grpc_side, rest_side
from tests.truth.house import LIES, Habits, House
from tests.truth.service import Service


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.truth_server", description=str(__doc__).splitlines()[0])
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="gRPC; 0: any free port")
    add("--rest-port", type=int, default=0)
    add("--streams", type=int, default=2**31 - 1, help="requests at a time on a connection of gRPC")
    add("--log", type=Path, help="the ground truth, a JSON line a request")
    add("--log-first", action="store_true", help="before the answer goes: for a server that will be killed")
    time = parser.add_argument_group("service time")
    add = time.add_argument
    add("--delay-ms", type=float, default=1, help="service time")
    add("--queue", action="store_true", help="one request at a time, in order; else all at once")
    add("--slow-ms", type=float, default=0, help="service time of the slow ones")
    add("--slow-share", type=float, default=0, help="share of the slow ones")
    add("--noise", type=float, default=0, help="standard deviation of the service time, relative to it")
    add("--stall-ms", type=float, default=0, help="how long everything stands still")
    add("--stall-every-ms", type=float, default=2000, help="from the begin of a stall to that of the next one")
    add("--seed", type=int, default=1)
    lies = parser.add_argument_group("lies; references and audit are answered truly")
    add = lies.add_argument
    add("--lies", nargs="+", choices=LIES, default=["error"], help="told in turn")
    add("--every", type=int, default=0, help="to each n-th request of the load")
    add("--share", type=float, default=0, help="to a share of them, at random")
    add("--stall-s", type=float, default=60, help="how long the lie `stall` gives no answer")
    add("--slower", type=float, default=0, help="service times grow by this share of themselves a second")
    add("--cold", type=int, default=0, help="so many first requests of the load ...")
    add("--cold-ms", type=float, default=0, help="... take so much longer")
    add("--cache", action="store_true", help="what was asked before is answered in a tenth of the time")
    return parser.parse_args(arguments)


async def run(chosen: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    service = Service(
        time_ms=chosen.delay_ms,
        slow_ms=chosen.slow_ms,
        slow_share=chosen.slow_share,
        noise=chosen.noise,
        queue=chosen.queue,
        stall_ms=chosen.stall_ms,
        stall_every_ms=chosen.stall_every_ms,
        slower=chosen.slower,
        cold=chosen.cold,
        cold_ms=chosen.cold_ms,
        cache=chosen.cache,
        seed=chosen.seed,
    )
    habits = Habits(chosen.lies, chosen.every, chosen.share, chosen.stall_s)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(chosen.log.open("w")) if chosen.log else None
        house = House(service, habits, log, chosen.log_first)
        _grpc, grpc_port = await grpc_side.start(house, chosen.host, chosen.port, chosen.streams)
        _rest, rest_port = await rest_side.start(house, chosen.host, chosen.rest_port)
        gc.collect()
        gc.freeze()  # what is here stays: the collector need not walk it
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        print(json.dumps({"grpc": grpc_port, "rest": rest_port}), flush=True)
        await stopping.wait()
    os._exit(0)  # stalled requests may sleep on; nothing is left to save


if __name__ == "__main__":
    asyncio.run(run(options()))
