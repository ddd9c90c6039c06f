"""How Locust's master starts users: once, and never again."""

from __future__ import annotations

from typing import Any

from locust.dispatch import UsersDispatcher


class SpawnOnce(UsersDispatcher):  # type: ignore[misc]
    """Locust's dispatcher without rebalancing: users are spread once, and a lost worker's are not started elsewhere.

    Locust's `enable_rebalancing` covers only one of the ways in which its master starts users again; all ask these.
    """

    @property
    def dispatch_in_progress(self) -> bool:
        return True

    def add_worker(self, worker_node: Any) -> None:
        """A late worker gets no users."""

    def remove_worker(self, worker_node: Any) -> None:
        """A lost worker's users are lost."""
