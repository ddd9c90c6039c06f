"""`loadproof-server`: starts the model server on OVMS's flags, and ends it when SIGTERM or SIGINT comes.

One uvloop event loop serves gRPC (grpc.aio), REST (uvicorn) and /metrics; inferences run in the engine's threads.
Decided by `python -m benchmarks.server_loops` on 2026-11-22: tiny MLP, two cores that other programs used as well,
median of three rounds (benchmarks/results/server_loops-2026-11-22.json), requests/s and p99:

    load             one uvloop     one asyncio    grpcio threads   REST's own thread   REST's own process
    gRPC, 8          1361, 15.6 ms  1280, 12.0 ms  1136, 15.4 ms
    REST, 8          1939, 16.0 ms  2129,  9.3 ms                   2351,  6.7 ms
    gRPC 8, REST 8   1719, 26.3 ms                                  1569, 25.5 ms       2010, 15.8 ms
    gRPC 8, scraped  1360, 15.8 ms                                  1316,  9.7 ms       1263, 14.0 ms

Readings on that machine differed by 20 to 30 % from round to round, and a run just before had both REST candidates
equal (2531 and 2541): only a process of its own, under both loads, stood out in both runs. So the simplest arrangement
was taken, without locks and with one model in memory. Scraping each second cost no throughput that could be seen. A
REST process would hold the model twice and split the infer requests; processes that serve both protocols are the way
beyond one core of Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from contextlib import AbstractContextManager
from typing import Any, Final

import uvicorn
import uvloop

from server import grpc_adapter, options
from server.errors import StartError, UsageError
from server.loader import Loader
from server.metrics import Metrics
from server.options import Options
from server.plane import Plane
from server.rest_adapter import RestApp

DRAIN_S: Final = 30.0  # requests in flight at the end of the server get this long
KEEP_ALIVE_S: Final = (
    3600  # an idle connection is the client's to close: closing it here would race with its next request
)
BACKLOG: Final = 2048  # connections that wait to be accepted

log = logging.getLogger("loadproof-server")


def main(arguments: list[str] | None = None) -> None:
    """The console script: 0 after a signal, 2 for wrong flags or a wrong configuration, 1 for what does not start."""
    try:
        chosen = options.parse(arguments)
        _set_up_log(chosen.log_level)
        uvloop.run(serve(chosen))
    except StartError as error:
        print(f"loadproof-server: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


async def serve(chosen: Options) -> None:
    """Loads the models, serves both protocols in this event loop, and drains on a signal; raises StartError."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    metrics_enabled = _metrics_enabled(chosen)
    plane = Plane(Metrics())
    loader = Loader(plane, chosen.configuration)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(loader.close)
        await loader.start()
        if chosen.rest_port:
            app = RestApp(plane, loader, metrics_enabled=metrics_enabled)
            await _start_rest(stack, app, listen(chosen.rest_bind_address, chosen.rest_port))
        if chosen.port:
            await _start_grpc(stack, plane, chosen)
        if chosen.file_system_poll_wait_seconds:
            _start_poll(stack, loader, chosen.file_system_poll_wait_seconds)
        gc.freeze()  # what is here stays: the collector need not walk it
        log.info("%s", _ready_line(chosen, plane))
        await stopping.wait()
        plane.ready = False
        loader.stop()
        log.info("stopping: requests in flight get %.0f s", DRAIN_S)
    log.info("stopped")


async def _start_grpc(stack: contextlib.AsyncExitStack, plane: Plane, chosen: Options) -> None:
    server = grpc_adapter.build(plane, _host_port(chosen.grpc_bind_address, chosen.port))
    await server.start()
    stack.push_async_callback(server.stop, DRAIN_S)


async def _start_rest(stack: contextlib.AsyncExitStack, app: RestApp, listener: socket.socket) -> None:
    server = RestServer(rest_config(app))
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)

    async def stop() -> None:
        server.should_exit = True
        await task

    stack.push_async_callback(stop)


def _start_poll(stack: contextlib.AsyncExitStack, loader: Loader, interval_s: float) -> None:
    task = asyncio.create_task(loader.poll(interval_s))

    async def stop() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)


def _metrics_enabled(chosen: Options) -> bool:
    """By the flag or by the configuration, which must then have its port; raises UsageError."""
    enabled = chosen.metrics_enable or chosen.configuration().metrics_enable
    if enabled and not chosen.rest_port:
        raise UsageError("monitoring.metrics.enable: /metrics is served on the REST port; give --rest_port")
    return enabled


class RestServer(uvicorn.Server):
    """Uvicorn, but signals are the caller's."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


def rest_config(app: Any) -> uvicorn.Config:
    """Uvicorn's settings: nothing in the request's way that Loadproof does not use."""
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(DRAIN_S),
    )


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens, so that the port is ours for certain; raises StartError where it is busy."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else asyncio's own loop answers 40 ms late
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(
            f"--rest_port: {_host_port(host, port)} cannot be bound ({error.strerror}): choose a free port"
        ) from None
    return listener


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ready_line(chosen: Options, plane: Plane) -> str:
    places = [
        f"{protocol} {_host_port(host, port)}"
        for protocol, host, port in (
            ("gRPC", chosen.grpc_bind_address, chosen.port),
            ("REST", chosen.rest_bind_address, chosen.rest_port),
        )
        if port
    ]
    models = ", ".join(map(str, plane.models.values())) or "no model"
    return f"serving {models}: {', '.join(places)}"


def _set_up_log(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if level == "TRACE" else level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
