"""One process of a server of several, which `supervisor` starts with the server's own flags.

It loads the models, says so, and serves when all others have theirs. It is killed when its supervisor is.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from typing import Final

from loadproof_server import main, options
from loadproof_server.errors import StartError
from loadproof_server.share import Share
from loadproof_server.supervisor import Post

_PR_SET_PDEATHSIG: Final = 1


class Worker:
    """The supervisor and the others, as a worker knows them."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self.share = Share(post.number, post.workers)
        self._control = socket.socket(fileno=post.control)
        addresses = [f"\0{post.address}-{number}" for number in range(post.workers)]
        self.address, self.others = addresses.pop(post.number), addresses

    async def wait_for_others(self) -> bool:
        """Tells that the models are loaded; whether all others have theirs, and the listening sockets are ready."""
        reader, writer = await asyncio.open_unix_connection(sock=self._control.dup())
        writer.write(b"{}\n")
        try:
            return bool(await reader.readline())
        finally:
            writer.close()

    def listeners(self) -> tuple[socket.socket | None, socket.socket | None]:
        """REST's and gRPC's."""
        rest, grpc = (socket.socket(fileno=fd) if fd >= 0 else None for fd in (self._post.rest, self._post.grpc))
        return rest, grpc

    def tell(self, error: StartError) -> None:
        """The supervisor says it, once for all workers."""
        failure = {"exit_code": error.exit_code, "message": str(error)}
        self._control.sendall(json.dumps(failure).encode() + b"\n")


def run(arguments: list[str]) -> None:
    """The worker's own argument, then the server's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers too; it is the supervisor that tells them
    post = Post.of(arguments[0])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != post.supervisor:  # it ended before that
        sys.exit(1)
    chosen = options.parse(arguments[1:])
    worker = Worker(post)
    os.sched_setaffinity(0, worker.share.cpus(os.sched_getaffinity(0)))
    try:
        main.run(chosen, worker)
    except StartError as error:
        worker.tell(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run(sys.argv[1:])
