"""Ports for the servers of tests: pytest processes side by side, of pytest-xdist, keep out of each other's way."""

from __future__ import annotations

import os

from loadproof.launch import ports


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """Different TCP ports that nothing listens on now, of this process's half of them where there are several."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    # Half of the number: Linux binds ports of one parity
    return ports.free_ports(number, host, lambda port: not worker or port // 2 % 2 == int(worker) % 2)
