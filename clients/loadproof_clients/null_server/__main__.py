"""Answers every inference at once with the same tensor: the generator's ceiling and floor are measured against it.

    python -m loadproof_clients.null_server [--api kserve] [--grpc-port 0] [--rest-port 0] [--delay-ms 0]

prints its ports, by protocol, as one JSON line and serves on 127.0.0.1 until SIGTERM; with --delay-ms it sleeps before
each answer, at next to no cost for the machine. Any model name will do: one input x, FP32 [-1, 64], and one output y,
FP32 [1, 64]. It lives with the clients, as part of the machine that offers the load: to measure a generator takes
nothing else, and no server of Loadproof's.
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

from loadproof_clients.apis import APIS
from loadproof_clients.null_server.answers import ANSWERS
from loadproof_clients.null_server.grpc_side import GrpcSide
from loadproof_clients.null_server.rest_side import RestSide


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadproof_clients.null_server", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--api", choices=ANSWERS, default="kserve")
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


class Delayed(asyncio.Protocol):
    """A connection of `side` whose answers go out later."""

    def __init__(self, side: asyncio.Protocol, delay_s: float) -> None:
        self._side, self._delay_s = side, delay_s
        self.data_received = side.data_received  # type: ignore[method-assign]

    def connection_made(self, transport: Any) -> None:
        self._side.connection_made(Later(transport, self._delay_s))  # type: ignore[arg-type]


async def serve(chosen: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    delay_s = chosen.delay_ms / 1000

    async def listen(side: Callable[[], asyncio.Protocol], port: int) -> int:
        made = (lambda: Delayed(side(), delay_s)) if delay_s else side
        server = await loop.create_server(made, "127.0.0.1", port, backlog=4096)
        return int(server.sockets[0].getsockname()[1])

    answered, carriers = ANSWERS[chosen.api], APIS[chosen.api].carriers
    sides: dict[str, tuple[Callable[[], asyncio.Protocol], int]] = {
        "grpc": (lambda: GrpcSide(answered), chosen.grpc_port),
        "rest": (lambda: RestSide(answered, carriers["rest"].inference_path), chosen.rest_port),
    }
    ports = {protocol: await listen(*sides[protocol]) for protocol in carriers}
    gc.collect()
    gc.freeze()
    print(json.dumps(ports), flush=True)
    await stopping.wait()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection is a file; 1024 is the usual limit
    uvloop.run(serve(options()))
