"""The Locust user: one client. In the closed loop it sends; in the open loop it holds its connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

import gevent
from locust import User
from locust.exception import StopUser

from loadproof_clients.load.session import Session
from loadproof_clients.records import CONNECTION
from loadproof_clients.transport import Client, Failure

PAUSE_AFTER_LOST_CONNECTION_S: Final = 0.05


def closed_loop(user: Any) -> None:
    """The whole run of one client: waits for T0, then for each answer before it sends the next request."""
    session = user.session
    session.go.wait()
    client = session.first_client + user.index
    payload = session.first_payload(client)
    while (status := session.send(user.connected, client, payload)) is not None:
        payload = (payload + 1) % session.payloads
        if status == CONNECTION:  # else a dead server would make this a busy loop of refused connections
            gevent.sleep(PAUSE_AFTER_LOST_CONNECTION_S)


def open_loop(user: Any) -> None:
    """The whole run of one client whose requests the worker's dispatcher sends."""
    user.session.landed.wait()


def once(user: Any) -> None:
    """Locust's task. Locust repeats a task for ever, also one that raises: this one ends its user and says why."""
    try:
        (open_loop if user.session.spec.load.is_open else closed_loop)(user)
    except Exception as error:
        user.session.trouble = f"client {user.index}: {error!r}"
    raise StopUser


class LoadUser(User):  # type: ignore[misc]
    """Connects while the run is armed; the worker sets `session` before Locust spawns the first user."""

    session: ClassVar[Session]
    tasks: ClassVar[list[Callable[[Any], None]]] = [once]
    connected: Client | None = None

    def on_start(self) -> None:
        """Connects; what went wrong is in session.trouble."""
        try:
            self.index, self.connected = self.session.join()
        except Failure:
            raise StopUser from None

    def on_stop(self) -> None:
        """Closes the connection: gRPC's must not be left to its destructor."""
        if self.connected is not None:
            self.connected.close()
