"""Is there a master? A worker from elsewhere asks until one listens, and, between two runs, until none does."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Final

PAUSE_S: Final = 0.5
CONNECT_TIMEOUT_S: Final = 2.0
HELD_S: Final = 60.0  # ZeroMQ ends a connection that says nothing after 30 s; one that is not ended is cut off


def wait_for(host: str, port: int, wait_s: float) -> bool:
    """Returns True once something listens there, False when nothing did within `wait_s`; a name may come later too."""
    until_s = time.monotonic() + wait_s
    while not _listens(host, port):
        if time.monotonic() > until_s:
            return False
        time.sleep(PAUSE_S)
    return True


def wait_until_gone(host: str, port: int) -> None:
    """Returns once nothing listens there: the master of a run that had no place has ended.

    A connection is held that ends with the master, at once: one that asks now and then could miss the end of this run
    and the begin of the next.
    """
    with contextlib.suppress(OSError):
        while True:
            with socket.create_connection((host, port), CONNECT_TIMEOUT_S) as held:
                held.settimeout(HELD_S)
                with contextlib.suppress(TimeoutError):
                    while held.recv(4096):
                        pass


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except OSError:  # a name that is not known yet is one as well
        return False
    return True
