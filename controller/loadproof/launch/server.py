"""`loadproof-server` as a process on loopback, and the command line that it and a container of it are started with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from loadproof.launch.child import Child
from loadproof.launch.ports import free_ports
from loadproof.launch.target import Target
from loadproof.models import Model
from loadproof.plan import Server
from loadproof_clients.apis import Api


def start(server: Server, model: Model, api: Api, log: Path) -> Target:
    """Start `loadproof-server` for the model, under its name; `Target.wait_ready` returns when it serves."""
    grpc_port, rest_port = free_ports(2)
    command = [sys.executable, "-m", "loadproof_server.main"]
    command += flags(server, model, str(model.directory), grpc_port, rest_port)
    rest = f"127.0.0.1:{rest_port}"
    child = Child("loadproof-server", command, log)
    return Target(model.name, api, f"127.0.0.1:{grpc_port}", rest, f"http://{rest}/metrics", child)


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
