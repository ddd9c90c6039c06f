"""A stack that stands already, as compose.yaml starts it: where its components are, and how settings reach its server.

Nothing is started here and no Docker is asked. A sweep's settings go into `config.json` in the model repository, which
the server reads at `models` on `POST /v1/config/reload`: the surface of OVMS, whichever server it is.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadproof.collect import metrics_text
from loadproof.errors import LoadproofError, PlanError
from loadproof.launch import http, questions
from loadproof.launch.component import RemoteComponent
from loadproof.launch.endpoints import Endpoints
from loadproof.launch.target import Target
from loadproof.models import Model
from loadproof.plan import Run, Server
from loadproof_clients.apis import Api
from loadproof_server.dataplane import metric_names

CONFIG: Final = "config.json"  # in the repository
READY_TIMEOUT_S: Final = 120
RELOAD_TIMEOUT_S: Final = 300  # a large model is read and compiled meanwhile
_SERVER_CURE: Final = "docker compose logs server says why"

Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):\d{1,5}$")]


class Stack(BaseModel):
    """Where the controller reaches each component; at `log` and `master` it listens itself for HAProxy and workers.

    `models` is where the server sees the model repository; None: it is on another platform, and its settings stay as
    they are. `workers` is a name that stands for all workers, by which they can be counted. `token_file` is one that
    they see too: the controller writes the campaign's token into it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    server_grpc: Address
    server_rest: Address
    balancer_grpc: Address
    balancer_rest: Address
    balancer_metrics: Address
    log: Address
    master: Address
    models: str | None = "/models"
    workers: str | None = None
    token_file: Path | None = Field(None, description="the file for the campaign's token, which the workers read")
    server_cpus: str | None = Field(None, description="recorded: the CPUs that the server was given")
    client_cpus: str | None = Field(None, description="recorded: the CPUs that balancer, controller and workers have")

    def endpoints(self, web_port: int | None, metrics_port: int | None) -> Endpoints:
        """Where workers, browsers and Prometheus reach the controller."""
        host, _, port = self.master.rpartition(":")
        return Endpoints(host.strip("[]"), int(port), web_port, metrics_port, token_file=self.token_file)

    def check(self, runs: list[Run]) -> None:
        """Raises PlanError for what the plan wants of the server and of the workers that this stack cannot give."""
        mistakes = []
        if launched := sorted({run.server.launch for run in runs} - {"process"}):
            mistakes.append(
                f'server.launch: found "{launched[0]}"; in a stack the server stands already: leave the key out '
                "(SERVER_HOST says where it is)"
            )
        if self.models is None and (swept := _differing([run.server for run in runs])):
            mistakes.append(
                f"{', '.join(f'server.{key}' for key in swept)}: differ between the runs, and settings cannot reach a "
                'server on another platform; give server.launch = "docker", server.engine and server.address, and run '
                "without a stack"
            )
        most = max(run.load.processes for run in runs)
        if self.workers and (here := _addresses(self.workers)) < most:
            mistakes.append(
                f"load.processes: found {most}; {here} workers are in the stack: docker compose up --scale "
                f"worker={most}, or --set load.processes={here or 1}"
            )
        if mistakes:
            raise PlanError("the plan in this stack", mistakes)

    def target(self, model: Model, api: Api) -> Target:
        """The stack's server."""
        facts = {"address": self.server_rest, "cpus": self.server_cpus}
        component = RemoteComponent("the server", self.server_rest, facts)
        metrics_url = f"http://{self.server_rest}/metrics"
        return Target(model.name, api, self.server_grpc, self.server_rest, metrics_url, component)

    def configure(self, server: Server, model: Model) -> None:
        """Have the server serve the model, and nothing else, with the plan's settings; LoadproofError says why not.

        A refused configuration is taken back: the server would not start with it again.
        """
        component = RemoteComponent("the server", self.server_rest)
        component.wait_until(lambda: questions.is_live(self.server_rest), READY_TIMEOUT_S, _SERVER_CURE)
        if self.models is not None:
            path = model.directory.parent / CONFIG
            before = path.read_text() if path.exists() else None
            _replace(path, json.dumps(configuration(server, model, self.models), indent=1) + "\n")
            status, answer = questions.reload_configuration(self.server_rest, RELOAD_TIMEOUT_S)
            if status not in (200, 201):
                if before is not None:
                    _replace(path, before)
                raise LoadproofError(f"{self.server_rest}: the server refused the settings of [server]: {answer}")
        self._verify(server, model)

    def _verify(self, server: Server, model: Model) -> None:
        """That the model is available, and with the streams that the plan names, where the server says how many."""
        status = questions.model_status(self.server_rest, model.name) or {}
        versions = status.get("model_version_status", [])
        if not any(version["state"] == "AVAILABLE" for version in versions):
            cure = "" if self.models else "; start it with this plan: PLAN=... docker compose --profile server up"
            raise LoadproofError(f'{self.server_rest}: the server has no model "{model.name}" available{cure}')
        page = metrics_text.parse(http.get(f"http://{self.server_rest}/metrics") or "", metric_names.STREAMS)
        found = set(metrics_text.values(page, metric_names.STREAMS, name=model.name))
        if server.streams and found and found != {float(server.streams)}:
            raise LoadproofError(
                f"server.streams = {server.streams}: the server at {self.server_rest} runs the model with "
                f"{', '.join(f'{n:g}' for n in found)}; does it read {CONFIG} of this model repository?"
            )


def parse(text: str) -> Stack:
    """The `KEY=VALUE ...` of --stack; an empty value is none given. ValueError names the key."""
    pairs = [word.partition("=") for word in text.split()]
    given = {key: None if value == "none" else value for key, equals, value in pairs if value or not equals}
    try:
        return Stack.model_validate(given)
    except ValidationError as error:
        mistakes = [f"{item['loc'][0]}: {item['msg']}" for item in error.errors(include_url=False)]
        raise ValueError("; ".join(mistakes)) from None


def configuration(server: Server, model: Model, models: str) -> dict[str, Any]:
    """OVMS's config.json for one model with the plan's settings; `models` is the repository as the server sees it."""
    settings = {
        "name": model.name,
        "base_path": f"{models}/{model.directory.name}",
        "target_device": server.device,
        "plugin_config": server.plugin_config(),
        "nireq": server.nireq,
    }
    return {
        "model_config_list": [{"config": {key: value for key, value in settings.items() if value}}],
        "monitoring": {"metrics": {"enable": True}},
    }


def _differing(servers: list[Server]) -> list[str]:
    return [key for key in Server.model_fields if len({getattr(server, key) for server in servers}) > 1]


def _addresses(name: str) -> int:
    try:
        return len({found[4][0] for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except OSError:
        return 0


def _replace(path: Path, text: str) -> None:
    """At once, so that a server never reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)
