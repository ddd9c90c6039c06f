"""The server that a run measures: where it is, when it is ready, and what it says of itself."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from loadproof.errors import LoadproofError
from loadproof.launch import port_owners, questions
from loadproof.launch.component import Component
from loadproof.launch.ports import refusal
from loadproof_clients.apis import Api

READY_TIMEOUT_S: Final = 120
EXTERNAL_TIMEOUT_S: Final = 10
_CURE: Final = "its log says why"


@dataclass(frozen=True)
class Target:
    """host:port by protocol, the URL of the metrics, and the API that the load uses.

    `model` is the name it is served under there; an external server has no `component`.
    """

    model: str
    api: Api
    grpc: str | None
    rest: str | None
    metrics_url: str | None
    component: Component | None = None
    bounds_met: dict[str, None] = field(default_factory=dict)  # what it was asked and answered too slowly, or too much

    def address(self, protocol: str) -> str:
        """host:port for `grpc` or `rest`; the plan has made sure that there is one."""
        address = self.grpc if protocol == "grpc" else self.rest
        assert address is not None
        return address

    def wait_ready(self) -> None:
        """Return once the model can be asked; LoadproofError says which address did not answer, and the cure."""
        if self.component is not None:
            self.component.wait_until(self._serves, READY_TIMEOUT_S, _CURE)
            return
        deadline_s = time.monotonic() + EXTERNAL_TIMEOUT_S
        while not self._serves():
            if time.monotonic() > deadline_s:
                where = f"server.rest_address {self.rest}" if self.rest else f"server.address {self.grpc}"
                raise LoadproofError(f'{where}: no ready model "{self.model}" there; start the server or mend the plan')
            time.sleep(0.2)

    def about(self) -> dict[str, str] | None:
        """The `name` and `version` that the server gives itself; None: not known."""
        return questions.about_server(self.rest, self.api, self._note) if self.rest else None

    def served(self) -> dict[str, Any] | None:
        """What the server says of the model: its `metadata`, by the API, and its versions' `status`, as OVMS has it.

        null for what it does not say; None where nothing can be asked.
        """
        if self.rest is None:
            return None
        return {
            "metadata": questions.about_model(self.rest, self.api, self.model, self._note),
            "status": questions.model_status(self.rest, self.model, self._note),
        }

    def pids(self) -> list[int] | None:
        """Its processes on this machine, [] where it is on another; None: it may be here, and is not visible."""
        if self.component is not None:
            return self.component.pids()
        found = [port_owners.pids(address) for address in (self.grpc, self.rest) if address]
        return None if None in found else sorted({pid for each in found for pid in each or []})

    def _serves(self) -> bool:
        if self.rest:
            return questions.is_model_ready(self.rest, self.api, self.model, self._note)
        return refusal(self.address("grpc"), timeout_s=2) is None

    def _note(self, text: str) -> None:
        self.bounds_met[text] = None
