"""Which launcher a run gets: by the plan's server.launch, unless a stack stands already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadproof.launch import launchers
from loadproof.launch.launchers import (
    ContainerLauncher,
    ExternalLauncher,
    ProcessLauncher,
    ServerLauncher,
    StackLauncher,
)
from loadproof.launch.stack import Stack, parse
from loadproof.models import Model
from loadproof.plan import Run
from loadproof_clients.apis import APIS

MODEL = Model(
    name="m", description="", source={}, licence="", sha256="", size_bytes=0, directory=Path("/nowhere/models/m")
)
EXTERNAL = {"launch": "external", "address": "127.0.0.1:9000", "rest_address": "127.0.0.1:8000"}


def run(**server: Any) -> Run:
    tables = {"server": {"model": "m", **server}, "load": {}, "measure": {}}
    return Run.model_validate({"name": "r", "repeat": 1, **tables})


def stack() -> Stack:
    names = ("server_grpc", "server_rest", "balancer_grpc", "balancer_rest", "balancer_metrics", "log", "master")
    return parse(" ".join(f"{name}=127.0.0.1:{port}" for port, name in enumerate(names, start=1)))


def choose(chosen: Run, deployed: Stack | None = None) -> ServerLauncher:
    model = None if chosen.server.launch == "external" and not deployed else MODEL
    return launchers.choose(chosen, model, deployed, Path("server.log"), "campaign")


@pytest.mark.parametrize(
    ("server", "kind"),
    [({}, ProcessLauncher), ({"launch": "docker"}, ContainerLauncher), (EXTERNAL, ExternalLauncher)],
)
def test_the_plan_s_launch_decides(server: dict[str, str], kind: type[ServerLauncher]) -> None:
    assert type(choose(run(**server))) is kind


def test_a_stack_s_server_is_configured_and_not_started() -> None:
    launcher = choose(run(), stack())
    assert isinstance(launcher, StackLauncher) and launcher.stage == "configuring the server"
    assert choose(run()).stage == "starting the server"


@pytest.mark.parametrize(
    ("given", "url"),
    [({}, "http://127.0.0.1:8000/metrics"), ({"metrics": "none"}, None), ({"metrics": "http://x/m"}, "http://x/m")],
)
def test_an_external_server_is_where_the_plan_says(given: dict[str, str], url: str | None) -> None:
    target = choose(run(**EXTERNAL, **given)).launch()
    assert (target.model, target.grpc, target.rest) == ("m", "127.0.0.1:9000", "127.0.0.1:8000")
    assert (target.metrics_url, target.component, target.api) == (url, None, APIS["kserve"])
