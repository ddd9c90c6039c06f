"""What the server's container is given and may do: limits, ports, the model's files, and nothing else."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Final

import docker

from loadproof.errors import LoadproofError
from loadproof.launch import engine
from loadproof.models import Model
from loadproof.plan import Server

GRPC_PORT: Final = 9000
REST_PORT: Final = 8000
MODELS: Final = "/models"
_NOBODY: Final = "10001:10001"

# How the engine's complaints begin, and of which key of the plan they are.
_COMPLAINTS: Final = {
    "requested cpus are not available": "cpus",
    "range of cpus": "cpu_limit",
    "memory": "memory_mb",
    "port is already allocated": "address",
    "address already in use": "address",
    "cannot assign requested address": "address",
}


def options(server: Server, model: Model) -> dict[str, Any]:
    """The keyword arguments of docker's `containers.create` that say what the container has.

    No capability, no new privilege, no user of the image's choice, nothing to write to but a bounded /tmp, no restart.
    """
    memory_bytes = server.memory_mb * 1_000_000 if server.memory_mb else None
    limits = {
        "cpuset_cpus": server.cpus,
        "nano_cpus": round(server.cpu_limit * 1e9) if server.cpu_limit else None,
        "mem_limit": memory_bytes,
        "memswap_limit": memory_bytes,  # both together: no swap
    }
    return {
        **{key: value for key, value in limits.items() if value is not None},
        "user": _user(server),
        "read_only": True,
        "tmpfs": {"/tmp": "size=256m,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 8192,  # threads count
        "init": True,
        "environment": {"HOME": "/tmp"},
        "use_config_proxy": False,
        "log_config": docker.types.LogConfig(type="none"),  # the log comes to us
        "mounts": [_mount(server, model)],
        "ports": {
            f"{GRPC_PORT}/tcp": _binding(server, server.address),
            f"{REST_PORT}/tcp": _binding(server, server.rest_address),
        },
    }


def model_path(model: Model) -> str:
    """Where the server sees the model's directory."""
    return f"{MODELS}/{model.directory.name}"


def _user(server: Server) -> str:
    """Never root. The files of this machine's repository may be readable by their owner only."""
    return _NOBODY if server.engine or os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"


def _mount(server: Server, model: Model) -> Any:
    """The model's own directory, read-only; elsewhere an empty volume that goes with the container."""
    if server.engine:
        return docker.types.Mount(MODELS, None, type="volume")
    return docker.types.Mount(model_path(model), str(model.directory.resolve()), type="bind", read_only=True)


def _binding(server: Server, address: str | None) -> tuple[str, ...]:
    """The address that the engine publishes a port at; without a port it takes a free one."""
    if server.engine is None:
        return ("127.0.0.1",)
    host, _, port = (address or server.address or server.rest_address or "").rpartition(":")
    try:
        interface = str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]")))
    except ValueError:
        interface = "0.0.0.0"  # a name's address may be another one over there
    return (interface, port) if address else (interface,)


@contextlib.contextmanager
def archive(model: Model) -> Iterator[IO[bytes]]:
    """The model's directory as a tar file that anybody may read and nobody but root write."""

    def readable(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
            tar.add(model.directory, arcname=model.directory.name, filter=readable)
        file.seek(0)
        yield file


def image(client: Any, server: Server, default: str) -> Any:
    """The image to start, which is never fetched unasked; LoadproofError with the cure where it cannot be."""
    name = server.image or default
    there = f"docker -H {server.engine}" if server.engine else "docker"
    try:
        found = client.images.get(name)
    except docker.errors.ImageNotFound:
        build = f"{there} build -t {default} -f server/Dockerfile ."
        cure = f"{there} pull {name}" if name != default else f"{build}  (in Loadproof's checkout)"
        raise LoadproofError(f"server.image = {name}: the engine does not have it; {cure}") from None
    except engine.ERRORS as error:
        raise LoadproofError(f"server.image = {name}: {engine.reason(error)}") from None
    if not found.attrs["Config"].get("Entrypoint"):
        raise LoadproofError(f"server.image = {name}: has no ENTRYPOINT that takes OVMS's flags; is it a model server?")
    return found


def refusal(error: BaseException, server: Server) -> LoadproofError:
    """The engine's refusal of the container, with the key of the plan that it is about."""
    text = engine.reason(error)
    for complaint, key in _COMPLAINTS.items():
        if complaint in text.lower():
            if key == "address" and not server.address:
                key = "rest_address"
            return LoadproofError(f"server.{key} = {getattr(server, key)}: the engine refuses it: {text}")
    return LoadproofError(f'server.launch = "docker": the container could not be started: {text}')
