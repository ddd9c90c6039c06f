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
            family, address = _family(host)
            listener = stack.enter_context(socket.socket(family))
            listener.bind((address, 0))
            port = int(listener.getsockname()[1])
            if accept(port):
                found.append(port)
    return found


def require_free(port: int, option: str, host: str = "127.0.0.1") -> None:
    """LoadproofError that names `option` when something listens on the port already."""
    try:
        family, address = _family(host)
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
    except (OSError, OverflowError) as error:
        reason, where = getattr(error, "strerror", None) or error, join_host_port(host, port)
        raise LoadproofError(f"{option}: {where} cannot be had ({reason}); choose a free port") from None


def join_host_port(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _family(host: str) -> tuple[socket.AddressFamily, str]:
    """Family and numeric address of a name of this machine, the first that it has."""
    family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    return family, str(address[0])


def refusal(address: str, timeout_s: float = 1) -> str | None:
    """Why nothing takes a TCP connection at `address` (host:port); None where something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
