"""The server under test: `loadproof-server` as a process on loopback, or an external one that is only found."""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.parse
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from controller.errors import LoadproofError
from controller.launch import http
from controller.launch.child import Child, free_ports
from controller.models import Model
from controller.plan import Server

READY_TIMEOUT_S = 120
EXTERNAL_TIMEOUT_S = 10
_CURE = "its log says why"


@dataclass(frozen=True)
class Target:
    """Where the server is: host:port by protocol, the URL of its metrics, and its process when we started it.

    `model` is the name it is served under there.
    """

    model: str
    grpc: str | None
    rest: str | None
    metrics_url: str | None
    child: Child | None = None

    def context(self) -> AbstractContextManager[object]:
        """Leaving it stops the server, if it is ours."""
        return self.child or nullcontext()

    def address(self, protocol: str) -> str:
        """host:port for `grpc` or `rest`; the plan has made sure that there is one."""
        address = self.grpc if protocol == "grpc" else self.rest
        assert address is not None
        return address


def start(server: Server, model: Model, log: Path) -> Target:
    """Start `loadproof-server` for the model, under its name; `wait_ready` says when it serves."""
    grpc_port, rest_port = free_ports(2)
    command = [sys.executable, "-m", "server.main", "--model_name", model.name, "--model_path", str(model.directory)]
    command += ["--port", str(grpc_port), "--rest_port", str(rest_port), "--metrics_enable"]
    command += openvino_flags(server)
    if server.nireq:
        command += ["--nireq", str(server.nireq)]
    rest = f"127.0.0.1:{rest_port}"
    child = Child("loadproof-server", command, log)
    return Target(model.name, f"127.0.0.1:{grpc_port}", rest, f"http://{rest}/metrics", child)


def openvino_flags(server: Server) -> list[str]:
    """The device and its properties, as the server and the reference program take them."""
    flags = ["--target_device", server.device]
    config = server.plugin_config()
    return [*flags, "--plugin_config", json.dumps(config)] if config else flags


def find(server: Server) -> Target:
    """An external server as the plan describes it; nothing is started."""
    metrics = server.metrics or (f"http://{server.rest_address}/metrics" if server.rest_address else "none")
    return Target(server.model, server.address, server.rest_address, None if metrics == "none" else metrics)


def wait_ready(target: Target) -> None:
    """Return once the model can be asked; LoadproofError says which address did not answer, and the cure."""
    if target.child is not None:
        target.child.wait_until(lambda: _serves(target), READY_TIMEOUT_S, _CURE)
        return
    deadline = time.monotonic() + EXTERNAL_TIMEOUT_S
    while not _serves(target):
        if time.monotonic() > deadline:
            where = f"server.rest_address {target.rest}" if target.rest else f"server.address {target.grpc}"
            raise LoadproofError(f'{where}: no ready model "{target.model}" there; start the server or mend the plan')
        time.sleep(0.2)


def _serves(target: Target) -> bool:
    if target.rest:
        return http.get(f"http://{target.rest}/v2/models/{urllib.parse.quote(target.model)}/ready") is not None
    host, _, port = target.address("grpc").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True
