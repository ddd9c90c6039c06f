"""Ports for the servers of tests: pytest processes side by side, of pytest-xdist, keep out of each other's way."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """Different TCP ports that nothing listens on now, of this process's half of them where there are several."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    found: list[int] = []
    with ExitStack() as stack:  # those of the other half are held, too, or would come again
        while len(found) < number:
            probe = stack.enter_context(socket.socket())
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
            if not worker or port // 2 % 2 == int(worker) % 2:  # half of it: Linux binds ports of one parity
                found.append(port)
    return found
