"""Starts the workers of a server, lets them serve together, and ends with them; serves nothing itself.

Workers are processes, because Python runs one thread at a time; OVMS's --grpc_workers are servers, its --rest_workers
threads of one process. There are as many as the larger of both flags says, and each has all models: the first
--grpc_workers of them serve gRPC, the first --rest_workers REST, so that no process is there for nothing.
They share a port by SO_REUSEPORT: the kernel picks the worker by a hash of a connection's addresses and ports, not by
load, so a few long connections, as HAProxy's and gRPC clients' are, may be one worker's while others are idle: of 8 to
2 workers, all are one's in 1 of 128 cases, and 6 or more in 29 %. Requests move with their connection. All models
are loaded before any port listens, and all workers listen at once: nobody is answered before everybody would be.
Measured on 2026-11-24 (benchmarks/results/workers-2026-11-24.json; a perceptron of 64 by 64 on two cores, which h2load
shared): two workers answered 1.5 (gRPC) and 1.6 (REST) times as many requests a second as one over 8 connections, 1.7
and 2.0 times as many over 64; over one connection the difference was within that of the rounds.
A worker that ends by itself ends the server, with exit code 1: whoever measures must not take less of it for all of it.
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
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadproof_server.errors import StartError, UsageError, WorkerDied
from loadproof_server.house import DRAIN_S
from loadproof_server.options import Options
from loadproof_server.ports import listen_together, new_socket

log = logging.getLogger("loadproof-server")

_KILL_S: Final = 2 * DRAIN_S + 10  # each of two listeners drains as long


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is told; numbers of file descriptors, of which -1 is none."""

    number: int  # from 0
    workers: int
    address: str  # of all workers' sockets for each other, but for their numbers
    supervisor: int  # process
    control: int
    rest: int
    grpc: int

    @classmethod
    def of(cls, argument: str) -> Post:
        return cls(**json.loads(argument))

    def to_argument(self) -> str:
        return json.dumps(asdict(self))


@dataclass(slots=True)
class Hand:
    """A worker, as its supervisor knows it."""

    name: str
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def loaded(self) -> None:
        """Returns when it has its models; raises StartError."""
        told = json.loads(await self.reader.readline() or "null")
        if told is None:
            raise WorkerDied(f"{self.name} {_end(await self.process.wait())} while it loaded")
        if told:
            raise (UsageError if told["exit_code"] == UsageError.exit_code else StartError)(told["message"])

    def serve(self) -> None:
        self.writer.write(b"serve\n")


async def supervise(chosen: Options, flags: Sequence[str]) -> None:
    """Serves until a signal comes; raises StartError where a worker does not start, or ends before that."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    hands: list[Hand] = []
    try:
        await _run(chosen, flags, hands, stopping)
    finally:
        codes = await asyncio.gather(*map(_stop, hands))
    if any(codes):
        raise WorkerDied(
            "; ".join(f"{hand.name} {_end(code)}" for hand, code in zip(hands, codes, strict=True) if code)
        )
    log.info("stopped")


async def _run(chosen: Options, flags: Sequence[str], hands: list[Hand], stopping: asyncio.Event) -> None:
    address = f"loadproof-server-{secrets.token_hex(16)}"
    with contextlib.ExitStack() as stack:  # the workers have their own copies of what is closed
        rest = _sockets(stack, chosen.rest_bind_address, chosen.rest_workers if chosen.rest_port else 0)
        grpc = _sockets(stack, chosen.grpc_bind_address, chosen.grpc_workers if chosen.port else 0)
        for number in range(chosen.workers):
            own = (rest[number : number + 1], grpc[number : number + 1])
            hands.append(await _start(number, chosen.workers, address, own, flags))
        if not await _unless(stopping, asyncio.gather(*(hand.loaded() for hand in hands))):
            return
        if rest:
            listen_together(rest, chosen.rest_bind_address, chosen.rest_port, "--rest_port")
        if grpc:
            listen_together(grpc, chosen.grpc_bind_address, chosen.port, "--port")
    for hand in hands:
        hand.serve()
    log.info("%d workers serve", len(hands))
    ends = [asyncio.create_task(hand.process.wait()) for hand in hands]
    await _unless(stopping, asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED))
    if not stopping.is_set():
        hand = next(hand for hand, end in zip(hands, ends, strict=True) if end.done())
        assert hand.process.returncode is not None
        error = WorkerDied(f"{hand.name} {_end(hand.process.returncode)}: the server ends with it")
        log.critical("%s", error)
        raise error


def _sockets(stack: contextlib.ExitStack, host: str, number: int) -> list[socket.socket]:
    return [stack.enter_context(new_socket(host)) for _ in range(number)]


async def _start(
    number: int, workers: int, address: str, own: tuple[list[socket.socket], ...], flags: Sequence[str]
) -> Hand:
    here, there = socket.socketpair()
    with there:
        rest, grpc = (sockets[0].fileno() if sockets else -1 for sockets in own)
        post = Post(number, workers, address, os.getpid(), there.fileno(), rest, grpc)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadproof_server.worker", post.to_argument(), *flags),
            pass_fds=[fd for fd in (there.fileno(), rest, grpc) if fd >= 0],
        )
    reader, writer = await asyncio.open_unix_connection(sock=here)
    return Hand(f"worker {number + 1} (process {process.pid})", process, reader, writer)


async def _unless(stopping: asyncio.Event, awaited: Awaitable[Any]) -> bool:
    """Whether it came to its end, and not the signal first; raises what it raises."""
    signalled, waiting = asyncio.create_task(stopping.wait()), asyncio.ensure_future(awaited)
    done, others = await asyncio.wait({signalled, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if waiting in done:
        waiting.result()
    return signalled not in done


async def _stop(hand: Hand) -> int:
    """Ends it as the server is ended; its exit code, negative for a signal, 0 where that was ours."""
    with contextlib.suppress(ProcessLookupError):
        hand.process.terminate()
    hand.writer.close()
    try:
        async with asyncio.timeout(_KILL_S):
            code = await hand.process.wait()
    except TimeoutError:
        log.error("%s does not end: it is killed", hand.name)
        hand.process.kill()
        code = await hand.process.wait()
    return 0 if code == -signal.SIGTERM else code  # it was not yet up, or just gone


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
