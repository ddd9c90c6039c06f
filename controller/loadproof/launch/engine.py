"""The Docker engine that a server's container runs on: this machine's, or one reached by TCP or through SSH."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import docker
import requests
import urllib3

from loadproof.errors import LoadproofError
from loadproof.launch.child import Child

CONNECT_TIMEOUT_S: Final = 15
ANSWER_TIMEOUT_S: Final = 60
OLDEST_API: Final = "1.41"  # of Docker 20.10
_LOCAL: Final = "unix:///var/run/docker.sock"

# What the SDK raises: its own, and those of the HTTP library below it.
ERRORS: Final = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)


@contextlib.contextmanager
def connect(engine: str | None, log: Path) -> Iterator[Any]:
    """A docker.DockerClient of `engine` (None: this machine's, or the Unix socket of DOCKER_HOST) that answers.

    TLS is as DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say. Through SSH goes OpenSSH's own program, with the user's keys
    and configuration; what it complains of is in `log`. Raises LoadproofError with the cure.
    """
    with contextlib.ExitStack() as stack:
        if engine is not None and engine.startswith("ssh://"):
            url = stack.enter_context(_tunnel(engine, log))
        else:
            url = engine or _local()
        client = _client(url, f"server.engine = {engine}" if engine else url)
        stack.callback(client.close)
        client.api.timeout = ANSWER_TIMEOUT_S
        yield client


def _client(url: str, name: str) -> Any:
    try:
        with contextlib.closing(_made(url, OLDEST_API)) as first:
            version = first.version(api_version=False)["ApiVersion"]
        return _made(url, version)
    except ERRORS as error:
        cure = 'start one there, or --set server.launch="process"'
        raise LoadproofError(f"{name}: no Docker engine answers ({reason(error)}); {cure}") from None


def _made(url: str, version: str) -> Any:
    """A client of that version of the API, which has asked nothing yet."""
    environment = {**os.environ, "DOCKER_HOST": url}
    client = docker.from_env(version=version, environment=environment, timeout=CONNECT_TIMEOUT_S)
    client.api.trust_env = False  # a site's proxies and CA bundle would come before the engine's own
    return client


def _local() -> str:
    """This machine's engine. The environment may not move it elsewhere unseen: the plan says where the server is."""
    url = os.environ.get("DOCKER_HOST") or _LOCAL
    if not url.startswith("unix://"):
        raise LoadproofError(
            f"DOCKER_HOST = {url} is elsewhere: say so in the plan by server.engine and server.address"
        )
    return url


@contextlib.contextmanager
def _tunnel(engine: str, log: Path) -> Iterator[str]:
    """URL of a Unix socket that leads through SSH to the engine's socket there; it ends with the controller."""
    program = shutil.which("ssh")
    if program is None:
        raise LoadproofError(f"server.engine = {engine}: there is no ssh here; apt-get install openssh-client")
    there = urllib.parse.urlsplit(engine)
    with tempfile.TemporaryDirectory(prefix="loadproof-engine-") as directory:
        here = Path(directory) / "docker.sock"
        options = ("BatchMode=yes", "ExitOnForwardFailure=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3")
        command = [program, "-nNT", *(f"-o{option}" for option in options)]
        command += ["-L", f"{here}:{there.path or '/var/run/docker.sock'}", "--", f"ssh://{there.netloc}"]
        with Child("ssh", command, log) as child:
            cure = f"server.engine = {engine}: see that  ssh ssh://{there.netloc}  asks nothing and gets there"
            child.wait_until(here.exists, CONNECT_TIMEOUT_S, cure)
            yield f"unix://{here}"


def reason(error: BaseException) -> str:
    """The innermost cause in one line: the libraries wrap each other's errors."""
    explanation = getattr(error, "explanation", None)  # of an engine that answered
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = explanation or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:300]
