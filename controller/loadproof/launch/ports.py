"""TCP ports of this machine: free ones for what a run starts, and a check of those that the user names."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from loadproof.errors import LoadproofError


def free_ports(count: int, host: str = "127.0.0.1", accept: Callable[[int], bool] = lambda port: True) -> list[int]:
    """`count` different TCP ports that nothing listens on now and `accept` takes.

    Another program may take one before it is used: the program that gets the port then says so.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:  # all are held until the end, or the system would offer one twice
        while len(found) < count:
            listener = stack.enter_context(socket.socket())
            listener.bind((host, 0))
            port = int(listener.getsockname()[1])
            if accept(port):
                found.append(port)
    return found


def require_free(port: int, option: str, host: str = "127.0.0.1") -> None:
    """LoadproofError that names `option` when something listens on the port already."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise LoadproofError(f"{option}: {host}:{port} cannot be had ({reason}); choose a free port") from None


def refusal(address: str, timeout_s: float = 1) -> str | None:
    """Why nothing takes a TCP connection at `address` (host:port); None where something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
