"""The ways in which a run gets its server; `choose` is the one place that decides which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from loadproof.launch import server
from loadproof.launch.stack import Stack
from loadproof.launch.target import Target
from loadproof.models import Model
from loadproof.plan import Run, Server
from loadproof_clients.apis import APIS, Api


class ServerLauncher(ABC):
    """`stage` says for the user what `launch` does."""

    stage: ClassVar[str] = "starting the server"

    @abstractmethod
    def launch(self) -> Target:
        """The server, started or found, and perhaps not ready yet. Raises LoadproofError with the cure.

        Its `component`, if there is one, is a context that ends what was started.
        """


@dataclass(frozen=True)
class ProcessLauncher(ServerLauncher):
    """Starts `loadproof-server` as a process of this machine."""

    server: Server
    api: Api
    model: Model
    log: Path

    def launch(self) -> Target:
        return server.start(self.server, self.model, self.api, self.log)


@dataclass(frozen=True)
class ContainerLauncher(ServerLauncher):
    """Starts the server's image on a Docker engine; `campaign` becomes the container's label."""

    server: Server
    api: Api
    model: Model
    log: Path
    campaign: str

    def launch(self) -> Target:
        from loadproof.launch import container  # the Docker SDK is needed for this one only

        return container.start(self.server, self.model, self.api, self.log, self.campaign)


@dataclass(frozen=True)
class ExternalLauncher(ServerLauncher):
    """Starts nothing: the server is where the plan says."""

    stage = "finding the server"
    server: Server
    api: Api

    def launch(self) -> Target:
        place = self.server
        metrics = place.metrics or (f"http://{place.rest_address}/metrics" if place.rest_address else "none")
        return Target(place.model, self.api, place.address, place.rest_address, None if metrics == "none" else metrics)


@dataclass(frozen=True)
class StackLauncher(ServerLauncher):
    """Starts nothing: the stack's server gets the plan's settings and the model."""

    stage = "configuring the server"
    server: Server
    api: Api
    model: Model
    stack: Stack

    def launch(self) -> Target:
        self.stack.configure(self.server, self.model)
        return self.stack.target(self.model, self.api)


def choose(run: Run, model: Model | None, stack: Stack | None, log: Path, campaign: str) -> ServerLauncher:
    """The launcher for a run; `model` is None for an external server only."""
    chosen, api = run.server, APIS[run.load.api]
    if chosen.launch == "external" and stack is None:
        return ExternalLauncher(chosen, api)
    assert model is not None, "only an external server's model is not looked up"
    if stack is not None:
        return StackLauncher(chosen, api, model, stack)
    if chosen.launch == "docker":
        return ContainerLauncher(chosen, api, model, log, campaign)
    return ProcessLauncher(chosen, api, model, log)
