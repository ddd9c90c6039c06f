"""Which processes of this machine serve an address that somebody else started them for."""

from __future__ import annotations

import socket
from typing import Final

import psutil

# They only pass on what others answer, who are not to be seen from here.
_FORWARDERS: Final = (
    "docker-proxy",
    "rootlesskit",
    "slirp4netns",
    "pasta",
    "ssh",
    "kubectl",
    "haproxy",
    "envoy",
    "nginx",
)


def pids(address: str) -> list[int] | None:
    """Those that listen on `address` (host:port); [] where the host is another; None: here, and not to be seen."""
    host, _, port = address.rpartition(":")
    if not _is_here(host.strip("[]")):
        return []
    try:
        sockets = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):  # OSError: /proc is mounted without its tables (subset=pid)
        return None
    listening = [one for one in sockets if one.status == psutil.CONN_LISTEN and one.laddr.port == int(port)]
    found = {one.pid for one in listening if one.pid is not None}
    try:
        forwarded = any(psutil.Process(pid).name() in _FORWARDERS for pid in found)
    except psutil.Error:
        return None
    return None if forwarded or not found or any(one.pid is None for one in listening) else sorted(found)


def _is_here(host: str) -> bool:
    """Whether one of this machine's addresses is meant: only those can be bound."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(where)
    except OSError:
        return False
    return True
