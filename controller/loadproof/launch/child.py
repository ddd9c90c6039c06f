"""A child process that cannot outlive the controller, with its log in a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from loadproof.errors import LoadproofError
from loadproof.launch.party import Party
from loadproof.shipped import CHECKOUT

PACKAGES: Final = ("server", "clients", "controller")  # folders of a checkout that hold a package


class Child(Party):
    """A started program: its stderr (and stdout, unless it is piped) goes to `log`; leaving the context stops it.

    It gets a process group of its own, so that Ctrl-C reaches only the controller, and the kernel kills it when the
    controller dies (`setpriv --pdeathsig`). The signal follows the thread that started it: start from the main thread.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, pipe: bool = False
    ) -> None:
        self.name = name
        self.log: Path = log
        self.command: list[str] = list(command)
        self._stopping = False
        with log.open("ab") as sink:
            self.popen = subprocess.Popen(
                [*_kernel_kills_with_parent(), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else sink,
                stderr=sink,
                env={**python_environment(), **(env or {})},
                start_new_session=True,
            )

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe of a child that was started with one."""
        assert self.popen.stdout is not None
        return self.popen.stdout

    def pids(self) -> list[int]:
        return [self.popen.pid]

    def died(self) -> str | None:
        """How it ended, if it ended without being told to; None while it runs."""
        code = self.popen.poll()
        if code is None or self._stopping:
            return None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return f"{self.name} {how}"

    def stop(self, timeout_s: float = 10) -> int:
        """SIGTERM, and SIGKILL to its whole group after `timeout_s`; returns the exit code."""
        self._stopping = True
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
            if self.popen.stdout is not None:
                self.popen.stdout.close()


def python_environment() -> dict[str, str]:
    """The environment in which `python -m` finds our packages: a module of a user's in the working directory
    stays out, and a source tree that is not the installed one gets its own code."""
    tree = [str(CHECKOUT / name) for name in PACKAGES] if CHECKOUT else []
    paths = [*tree, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONSAFEPATH": "1", **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def _kernel_kills_with_parent() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """`count` different TCP ports that nothing listens on now; the caller says so when another program is quicker."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind((host, 0))
        return [listener.getsockname()[1] for listener in sockets]


def require_free(port: int, option: str, host: str = "127.0.0.1") -> None:
    """LoadproofError that names `option` when something listens on the port already."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise LoadproofError(f"{option}: {host}:{port} cannot be had ({reason}); choose a free port") from None
