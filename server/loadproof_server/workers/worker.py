"""One process of a server of several, which the supervisor starts with the server's own flags.

It loads the models, reports that, and serves when all others have loaded theirs. The kernel kills it when its
supervisor dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

from loadproof_server import flags
from loadproof_server.errors import StartError
from loadproof_server.flags import Options
from loadproof_server.workers.resources import WorkerResources
from loadproof_server.workers.spec import WorkerSpec

_PR_SET_PDEATHSIG: Final = 1


class Worker:
    """A worker's resources and addresses, and its connection to the supervisor."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self.resources = WorkerResources(spec.number, spec.workers)
        self._control = socket.socket(fileno=spec.control)
        addresses = [f"\0{spec.address}-{number}" for number in range(spec.workers)]
        self.address, self.others = addresses.pop(spec.number), addresses

    async def wait_for_others(self) -> bool:
        """Reports that the models are loaded; True once all workers have theirs and the sockets listen."""
        reader, writer = await asyncio.open_unix_connection(sock=self._control.dup())
        writer.write(b"{}\n")
        try:
            return bool(await reader.readline())
        finally:
            writer.close()

    def listeners(self) -> tuple[list[socket.socket], list[socket.socket]]:
        """The sockets of REST and of gRPC."""
        rest, grpc = ([socket.socket(fileno=fd) for fd in found] for found in (self._spec.rest, self._spec.grpc))
        return rest, grpc

    def report_failure(self, error: StartError) -> None:
        """To the supervisor, which prints it once for all workers."""
        failure = {"exit_code": error.exit_code, "message": str(error)}
        self._control.sendall(json.dumps(failure).encode() + b"\n")


def start(arguments: list[str], run: Callable[[Options, Worker], None]) -> None:
    """Sets the process up as a worker and calls `run`; `arguments` are the WorkerSpec, then the server's own flags."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers too, but the supervisor ends them
    spec = WorkerSpec.from_argument(arguments[0])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != spec.supervisor:  # it ended before that
        sys.exit(1)
    chosen = flags.parse(arguments[1:])
    worker = Worker(spec)
    os.sched_setaffinity(0, worker.resources.cpus(os.sched_getaffinity(0)))
    try:
        run(chosen, worker)
    except StartError as error:
        worker.report_failure(error)
        sys.exit(error.exit_code)
