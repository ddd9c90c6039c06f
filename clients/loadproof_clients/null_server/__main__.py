"""Answers every inference at once with the same tensor: the generator's ceiling and floor are measured against it.

    python -m loadproof_clients.null_server [--grpc-port 0] [--rest-port 0] [--delay-ms 0]

prints its two ports as one JSON line and serves on 127.0.0.1 until SIGTERM; with --delay-ms it sleeps before each
answer, at next to no cost for the machine. Any model name will do: one input x, FP32
[-1, 64], and one output y, FP32 [1, 64]. It lives with the clients, as part of the machine that offers the load: to
measure a generator takes nothing else, and no server of Loadproof's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import signal
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from loadproof_clients.null_server.grpc_side import GrpcSide
from loadproof_clients.null_server.rest_side import RestSide


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadproof_clients.null_server", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--grpc-port", type=int, default=0, help="0: any free port")
    parser.add_argument("--rest-port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0, help="how much later everything is answered")
    return parser.parse_args(arguments)


class Later:
    """A connection on which all that is written goes out a time later, in order."""

    def __init__(self, transport: Any, delay_s: float) -> None:
        self._transport, self._delay_s = transport, delay_s
        self._later = asyncio.get_running_loop().call_later
        self.close = transport.close

    def write(self, data: bytes) -> None:
        self._later(self._delay_s, self._transport.write, data)


def sleeping(side: type[GrpcSide | RestSide], delay_s: float) -> type[GrpcSide | RestSide]:
    """That side, answering later."""

    class Sleeping(side):  # type: ignore[misc,valid-type]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(Later(transport, delay_s))

    return Sleeping if delay_s else side


async def serve(chosen: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    async def listen(side: Callable[[], asyncio.Protocol], port: int) -> int:
        server = await loop.create_server(side, "127.0.0.1", port, backlog=4096)
        return int(server.sockets[0].getsockname()[1])

    delay_s = chosen.delay_ms / 1000
    ports = {
        "grpc": await listen(sleeping(GrpcSide, delay_s), chosen.grpc_port),
        "rest": await listen(sleeping(RestSide, delay_s), chosen.rest_port),
    }
    gc.collect()
    gc.freeze()
    print(json.dumps(ports), flush=True)
    await stopping.wait()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection is a file; 1024 is the usual limit
    uvloop.run(serve(options()))
