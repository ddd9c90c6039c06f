"""`loadproof-server`: starts the model server on OVMS's flags, and ends it when SIGTERM or SIGINT comes.

One uvloop event loop serves gRPC, REST and /metrics, over HTTP of our own (`connections`);
inferences run in the engine's threads, very short ones in the event loop itself. Measured on 2026-11-22
(benchmarks/results/server_loops-2026-11-22.json): one uvloop, one asyncio loop, grpcio's threads, and REST in a thread
or a process of its own differed by no more than that two-core machine's rounds did among themselves, but for the
process, which would hold the model twice and split the infer requests. Scraping /metrics each second cost nothing that
could be seen. What the libraries cost, grpc.aio and uvicorn, was more than all of that: `python -m benchmarks.serving`.

A request of a null model takes 62 us of CPU over gRPC and 76 over REST, of 8 connections (two cores, 2026-11-24,
benchmarks/results/serving-2026-11-24.json). Under perf, which adds its own, they go, in us of gRPC and REST, to the
kernel 26 and 25, OpenVINO with its bindings 8 and 7, protobuf 3 and JSON 1, the HTTP parser 1, the event loop 2 and 2,
HTTP and gRPC framing in Python 9 and 6, and 33 and 47 to the rest of Python: the data plane, messages to tensors and
back, tasks, metrics. So a faster codec of HTTP/2 or protobuf, hand-written or not, would save less than a sixth. On a
machine with slower cores they were 311 and 331 us (serving-2026-11-27.json): Python had half of it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Final

import uvloop

from loadproof_server import flags
from loadproof_server.connections.grpc import GrpcConnection
from loadproof_server.connections.http1 import Http1Connection
from loadproof_server.connections.listener import DRAIN_S, Listener
from loadproof_server.connections.sockets import host_port, listen_to_all
from loadproof_server.dataplane.metrics import Metrics
from loadproof_server.dataplane.plane import Plane
from loadproof_server.errors import StartError, UsageError
from loadproof_server.flags import Options
from loadproof_server.kserve.all_workers import AllWorkers
from loadproof_server.kserve.grpc import handlers
from loadproof_server.kserve.rest import RestApp
from loadproof_server.repository.loader import Loader
from loadproof_server.tensors import memory
from loadproof_server.workers import supervisor
from loadproof_server.workers.resources import WorkerResources
from loadproof_server.workers.worker import Worker

log = logging.getLogger("loadproof-server")

WORKER_ENTRY: Final = "loadproof_server.worker_main"


def main(arguments: list[str] | None = None) -> None:
    """The console script: 0 after a signal, 2 for wrong flags or a wrong configuration, 1 for what does not start."""
    try:
        chosen = flags.parse(arguments)
        if chosen.workers == 1:
            run(chosen)
        else:
            _set_up_log(chosen, "supervisor")
            _warn(chosen)
            given = sys.argv[1:] if arguments is None else arguments
            asyncio.run(supervisor.supervise(chosen, given, WORKER_ENTRY))
    except StartError as error:
        print(f"loadproof-server: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def run(chosen: Options, worker: Worker | None = None) -> None:
    """Serves until a signal comes; raises StartError."""
    memory.keep_freed_memory()
    _set_up_log(chosen, f"worker {worker.resources.number + 1}" if worker else "")
    if not worker:
        _warn(chosen)
    uvloop.run(serve(chosen, worker))


async def serve(chosen: Options, worker: Worker | None = None) -> None:
    """Loads the models, serves both protocols in this event loop, and drains on a signal; raises StartError.

    A worker of several takes its part of the resources, and serves when all workers have loaded.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM,) if worker else (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    metrics_enabled, metrics_list = _metrics(chosen)
    tls = {protocol: chosen.tls.context(protocol) if chosen.tls else None for protocol in ("http/1.1", "h2")}
    resources = worker.resources if worker else WorkerResources()
    plane = Plane(Metrics(metrics_list))
    plane.accepting = False  # until both protocols are served
    loader = Loader(plane, lambda: resources.configuration(chosen.configuration()))
    workers = AllWorkers(plane, loader, worker.others if worker else ())
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(loader.close)
        await loader.start(need_model=chosen.config_path is None)
        if worker:
            await workers.listen(worker.address)
            stack.push_async_callback(workers.close)
            if not await worker.wait_for_others():
                return
        rest, grpc = worker.listeners() if worker else _listeners(chosen)
        if rest:
            app = RestApp(plane, workers, metrics_enabled=metrics_enabled)
            stack.push_async_callback(app.close)
            listener = Listener(lambda state: Http1Connection(state, app), resources.limits())
            await _start(stack, listener, rest, tls["http/1.1"])
        if grpc:
            methods = handlers(plane, workers)
            listener = Listener(lambda state: GrpcConnection(state, methods), resources.limits())
            await _start(stack, listener, grpc, tls["h2"])
        if chosen.file_system_poll_wait_seconds:
            _start_poll(stack, loader, chosen.file_system_poll_wait_seconds)
        gc.freeze()  # these objects stay: the garbage collector need not visit them
        plane.accepting = True
        log.info("%s", _ready_line(chosen, plane))
        await stopping.wait()
        plane.accepting = False
        loader.stop()
        log.info("stopping: requests in flight get %.0f s", DRAIN_S)
    log.info("stopped")


def _listeners(chosen: Options) -> tuple[list[socket.socket], list[socket.socket]]:
    """The sockets of REST and of gRPC; none where the protocol has no port."""
    rest = listen_to_all(chosen.rest_bind_address, chosen.rest_port, "--rest_port") if chosen.rest_port else []
    grpc = listen_to_all(chosen.grpc_bind_address, chosen.port, "--port") if chosen.port else []
    return rest, grpc


async def _start(
    stack: contextlib.AsyncExitStack, listener: Listener, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None
) -> None:
    for where in sockets:
        await listener.start(where, tls)
    stack.push_async_callback(listener.stop, DRAIN_S)


def _start_poll(stack: contextlib.AsyncExitStack, loader: Loader, interval_s: float) -> None:
    task = asyncio.create_task(loader.poll(interval_s))

    async def stop() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)


def _metrics(chosen: Options) -> tuple[bool, tuple[str, ...]]:
    """Whether metrics are served, and which; raises UsageError where they have no port."""
    configured = chosen.configuration()
    enabled = chosen.metrics_enable or configured.metrics_enable
    if enabled and not chosen.rest_port:
        raise UsageError("monitoring.metrics.enable: /metrics is served on the REST port; give --rest_port")
    return enabled, chosen.metrics_list or configured.metrics_list


def _ready_line(chosen: Options, plane: Plane) -> str:
    places = [
        f"{protocol} {host_port(host, port)}"
        for protocol, hosts, port in (
            ("gRPC", chosen.grpc_bind_address, chosen.port),
            ("REST", chosen.rest_bind_address, chosen.rest_port),
        )
        for host in hosts
        if port
    ]
    models = ", ".join(map(str, plane.models)) or "no model"
    under = " under TLS" if chosen.tls else ""
    return f"serving {models}: {', '.join(places)}{under}"


def _warn(chosen: Options) -> None:
    for warning in chosen.warnings:
        log.warning("%s", warning)


def _set_up_log(chosen: Options, process: str = "") -> None:
    level, path = chosen.log_level, chosen.log_path
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        try:
            handlers.append(logging.FileHandler(path))
        except OSError as error:
            raise UsageError(f"--log_path: {path} cannot be written ({error.strerror}); give a file that can") from None
    logging.basicConfig(
        handlers=handlers,
        level=logging.DEBUG if level == "TRACE" else level,
        format=f"%(asctime)s %(levelname)s %(name)s{' ' * bool(process)}{process}: %(message)s",
    )


if __name__ == "__main__":
    main()
