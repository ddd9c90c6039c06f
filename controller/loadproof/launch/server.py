"""The server under test: `loadproof-server` as a process on loopback, or an external one that is only found.

One in a container is started by loadproof/launch/container.py.
"""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadproof.errors import LoadproofError
from loadproof.launch import http, listeners
from loadproof.launch.child import Child, free_ports
from loadproof.launch.party import Party
from loadproof.models import Model
from loadproof.plan import Server

READY_TIMEOUT_S = 120
EXTERNAL_TIMEOUT_S = 10
_CURE = "its log says why"


@dataclass(frozen=True)
class Target:
    """Where the server is: host:port by protocol, the URL of its metrics, and how to ask whether it lives.

    `model` is the name it is served under there; an external server is nobody's `party`.
    """

    model: str
    grpc: str | None
    rest: str | None
    metrics_url: str | None
    party: Party | None = None

    def address(self, protocol: str) -> str:
        """host:port for `grpc` or `rest`; the plan has made sure that there is one."""
        address = self.grpc if protocol == "grpc" else self.rest
        assert address is not None
        return address


def start(server: Server, model: Model, log: Path) -> Target:
    """Start `loadproof-server` for the model, under its name; `wait_ready` says when it serves."""
    grpc_port, rest_port = free_ports(2)
    command = [
        sys.executable,
        "-m",
        "loadproof_server.main",
        *flags(server, model, str(model.directory), grpc_port, rest_port),
    ]
    rest = f"127.0.0.1:{rest_port}"
    child = Child("loadproof-server", command, log)
    return Target(model.name, f"127.0.0.1:{grpc_port}", rest, f"http://{rest}/metrics", child)


def flags(server: Server, model: Model, path: str, grpc_port: int, rest_port: int) -> list[str]:
    """OVMS's command line for the plan's settings; `path` is where the server sees the model's directory."""
    command = ["--model_name", model.name, "--model_path", path]
    command += ["--port", str(grpc_port), "--rest_port", str(rest_port), "--metrics_enable"]
    command += openvino_flags(server)
    return [*command, "--nireq", str(server.nireq)] if server.nireq else command


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
    if target.party is not None:
        target.party.wait_until(lambda: _serves(target), READY_TIMEOUT_S, _CURE)
        return
    deadline = time.monotonic() + EXTERNAL_TIMEOUT_S
    while not _serves(target):
        if time.monotonic() > deadline:
            where = f"server.rest_address {target.rest}" if target.rest else f"server.address {target.grpc}"
            raise LoadproofError(f'{where}: no ready model "{target.model}" there; start the server or mend the plan')
        time.sleep(0.2)


def about(target: Target) -> dict[str, str] | None:
    """The `name` and `version` that a server gives itself over REST (KServe v2's server metadata); None: not told."""
    answer = http.get(f"http://{target.rest}/v2") if target.rest else None
    try:
        said = json.loads(answer or "null")
        return {name: str(said[name])[:200] for name in ("name", "version")}
    except (ValueError, TypeError, KeyError):
        return None


def served(target: Target) -> dict[str, Any] | None:
    """What the server says of the model over REST: its `metadata` (KServe v2) and its versions' `status` (/v1/config).

    null for what it does not tell; None where nothing can be asked.
    """
    if target.rest is None:
        return None
    name = urllib.parse.quote(target.model)
    metadata = _json(http.get(f"http://{target.rest}/v2/models/{name}"))
    config = _json(http.get(f"http://{target.rest}/v1/config"))
    return {"metadata": metadata, "status": config.get(target.model) if isinstance(config, dict) else None}


def pids(target: Target) -> list[int] | None:
    """Its processes on this machine, [] where it is on another; None: it may be here, and is not to be seen."""
    if target.party is not None:
        return target.party.pids()
    found = [listeners.pids(address) for address in (target.grpc, target.rest) if address]
    return None if None in found else sorted({pid for each in found for pid in each or []})


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None


def _serves(target: Target) -> bool:
    if target.rest:
        return http.get(f"http://{target.rest}/v2/models/{urllib.parse.quote(target.model)}/ready") is not None
    host, _, port = target.address("grpc").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True
