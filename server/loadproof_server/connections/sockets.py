"""The sockets that a server listens on: one for each address, or one for each worker with SO_REUSEPORT."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from loadproof_server.connections.listener import BACKLOG
from loadproof_server.errors import StartError


def listen(host: str, port: int, flag: str = "--rest_port", *, only_ipv6: bool = False) -> socket.socket:
    """A listening TCP socket; raises StartError where the port is busy or the address is no one of this machine's."""
    listener = new_socket(host, only_ipv6=only_ipv6)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        cure = "choose an address of this machine" if error.errno == errno.EADDRNOTAVAIL else "choose a free port"
        raise StartError(f"{flag}: {host_port(host, port)} cannot be bound ({error.strerror}): {cure}") from None
    return listener


def listen_to_all(hosts: Sequence[str], port: int, flag: str) -> list[socket.socket]:
    """A listening socket for each address; raises StartError as `listen` does."""
    found: list[socket.socket] = []
    try:
        for host in hosts:
            found.append(listen(host, port, flag, only_ipv6=has_ipv4(hosts)))
    except StartError:
        for listener in found:
            listener.close()
        raise
    return found


def listen_together(listeners: Sequence[socket.socket], host: str, port: int, flag: str) -> None:
    """Binds all the sockets, new ones, to the port; raises StartError where another program has it.

    SO_REUSEPORT alone would silently share it with another server, so the port is first bound without it, and held
    until all sockets are bound.
    """
    with listen(host, port, flag, only_ipv6=_takes_only_ipv6(listeners[0])) as guard:
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)


def new_socket(host: str, *, only_ipv6: bool = False) -> socket.socket:
    """A TCP socket of the address's family, not yet bound; `::` takes IPv4 as well unless `only_ipv6`."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else asyncio's own loop answers 40 ms late
    return made


def has_ipv4(hosts: Sequence[str]) -> bool:
    """Whether IPv4 has sockets of its own, with which one of IPv6 that takes both would collide."""
    return any(":" not in host for host in hosts)


def _takes_only_ipv6(made: socket.socket) -> bool:
    return made.family == socket.AF_INET6 and bool(made.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
