"""The sockets that a server listens on: one for a port, or one for each worker with SO_REUSEPORT."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from loadproof_server.connections.listener import BACKLOG
from loadproof_server.errors import StartError


def listen(host: str, port: int, flag: str = "--rest_port") -> socket.socket:
    """A listening TCP socket; raises StartError where the port is busy."""
    listener = new_socket(host)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(
            f"{flag}: {host_port(host, port)} cannot be bound ({error.strerror}): choose a free port"
        ) from None
    return listener


def listen_together(listeners: Sequence[socket.socket], host: str, port: int, flag: str) -> None:
    """Binds all the sockets, new ones, to the port; raises StartError where another program has it.

    SO_REUSEPORT alone would silently share it with another server, so the port is first bound without it, and held
    until all sockets are bound.
    """
    with listen(host, port, flag) as guard:
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)


def new_socket(host: str) -> socket.socket:
    """A TCP socket of the address's family, not yet bound."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else asyncio's own loop answers 40 ms late
    return made


def host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
