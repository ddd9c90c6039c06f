"""Starts the workers of a server, lets them serve together, and ends with them; serves nothing itself.

Workers are processes, because Python runs one thread at a time; OVMS's --grpc_workers are servers, its --rest_workers
threads of one process. There are as many as the larger of both flags says, and each has all models: the first
--grpc_workers of them serve gRPC, the first --rest_workers REST, so that every process serves something.
They share a port by SO_REUSEPORT: the kernel picks the worker by a hash of a connection's addresses and ports, not by
load, so a few long connections, as HAProxy and gRPC clients keep, may all go to one worker while others are idle: of 8
connections to 2 workers, one worker gets all in 1 of 128 cases, and 6 or more in 29 %. Requests stay on their
connection. All models are loaded before any port listens, and all workers listen at once: no client is answered before
every client would be.
Measured on 2026-11-24 (benchmarks/results/workers-2026-11-24.json; a perceptron of 64 by 64 on two cores, which h2load
shared): two workers answered 1.5 (gRPC) and 1.6 (REST) times as many requests a second as one over 8 connections, 1.7
and 2.0 times as many over 64; over one connection the difference was within that of the rounds.
A worker that ends by itself ends the server, with exit code 1: a measurement must not take part of a server for all
of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadproof_server.connections.listener import DRAIN_S
from loadproof_server.connections.sockets import has_ipv4, listen_together, new_socket
from loadproof_server.errors import StartError, UsageError, WorkerDied
from loadproof_server.flags import Options
from loadproof_server.workers.spec import WorkerSpec

log = logging.getLogger("loadproof-server")

_KILL_S: Final = 2 * DRAIN_S + 10  # each of two listeners drains as long


@dataclass(slots=True)
class WorkerHandle:
    """A worker process, and the control connection to it."""

    name: str
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def wait_until_loaded(self) -> None:
        """Returns when the worker has loaded its models; raises StartError."""
        failure = json.loads(await self.reader.readline() or "null")
        if failure is None:
            raise WorkerDied(f"{self.name} {_end(await self.process.wait())} while it loaded")
        if failure:
            raise (UsageError if failure["exit_code"] == UsageError.exit_code else StartError)(failure["message"])

    def start_serving(self) -> None:
        self.writer.write(b"serve\n")


async def supervise(chosen: Options, flags: Sequence[str], entry: str) -> None:
    """Keeps workers that run the module `entry` until a signal comes.

    Raises StartError where a worker does not start, or ends before the signal.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    handles: list[WorkerHandle] = []
    try:
        await _run(chosen, flags, entry, handles, stopping)
    finally:
        codes = await asyncio.gather(*map(_stop, handles))
    if any(codes):
        raise WorkerDied(
            "; ".join(f"{handle.name} {_end(code)}" for handle, code in zip(handles, codes, strict=True) if code)
        )
    log.info("stopped")


async def _run(
    chosen: Options, flags: Sequence[str], entry: str, handles: list[WorkerHandle], stopping: asyncio.Event
) -> None:
    address = f"loadproof-server-{secrets.token_hex(16)}"
    with contextlib.ExitStack() as stack:  # the workers have their own copies of what is closed
        rest = _sockets(stack, chosen.rest_bind_address, chosen.rest_workers if chosen.rest_port else 0)
        grpc = _sockets(stack, chosen.grpc_bind_address, chosen.grpc_workers if chosen.port else 0)
        for number in range(chosen.workers):
            own = [sockets[number] if number < len(sockets) else [] for sockets in (rest, grpc)]
            handles.append(await _start(number, chosen.workers, address, own, entry, flags))
        if not await _unless(stopping, asyncio.gather(*(handle.wait_until_loaded() for handle in handles))):
            return
        for host, listeners in zip(chosen.rest_bind_address, zip(*rest, strict=True), strict=False):
            listen_together(listeners, host, chosen.rest_port, "--rest_port")
        for host, listeners in zip(chosen.grpc_bind_address, zip(*grpc, strict=True), strict=False):
            listen_together(listeners, host, chosen.port, "--port")
    for handle in handles:
        handle.start_serving()
    log.info("%d workers serve", len(handles))
    ends = [asyncio.create_task(handle.process.wait()) for handle in handles]
    await _unless(stopping, asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED))
    if not stopping.is_set():
        handle = next(handle for handle, end in zip(handles, ends, strict=True) if end.done())
        assert handle.process.returncode is not None
        error = WorkerDied(f"{handle.name} {_end(handle.process.returncode)}: the server ends with it")
        log.critical("%s", error)
        raise error


def _sockets(stack: contextlib.ExitStack, hosts: Sequence[str], workers: int) -> list[list[socket.socket]]:
    """Of each worker a socket for each address."""
    only_ipv6 = has_ipv4(hosts)
    return [[stack.enter_context(new_socket(host, only_ipv6=only_ipv6)) for host in hosts] for _ in range(workers)]


async def _start(
    number: int, workers: int, address: str, own: Sequence[list[socket.socket]], entry: str, flags: Sequence[str]
) -> WorkerHandle:
    here, there = socket.socketpair()
    with there:
        rest, grpc = ([each.fileno() for each in sockets] for sockets in own)
        spec = WorkerSpec(number, workers, address, os.getpid(), there.fileno(), rest, grpc)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", entry, spec.to_argument(), *flags),
            pass_fds=[there.fileno(), *rest, *grpc],
        )
    reader, writer = await asyncio.open_unix_connection(sock=here)
    return WorkerHandle(f"worker {number + 1} (process {process.pid})", process, reader, writer)


async def _unless(stopping: asyncio.Event, awaited: Awaitable[Any]) -> bool:
    """Whether `awaited` ended before the signal came; raises what it raises."""
    signalled, waiting = asyncio.create_task(stopping.wait()), asyncio.ensure_future(awaited)
    done, others = await asyncio.wait({signalled, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if waiting in done:
        waiting.result()
    return signalled not in done


async def _stop(handle: WorkerHandle) -> int:
    """Ends the worker by SIGTERM, at last by SIGKILL; its exit code, negative for a signal, 0 for our SIGTERM."""
    with contextlib.suppress(ProcessLookupError):
        handle.process.terminate()
    handle.writer.close()
    try:
        async with asyncio.timeout(_KILL_S):
            code = await handle.process.wait()
    except TimeoutError:
        log.error("%s does not end: it is killed", handle.name)
        handle.process.kill()
        code = await handle.process.wait()
    return 0 if code == -signal.SIGTERM else code  # it came before the worker handled it, or as it ended


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
