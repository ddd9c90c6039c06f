"""A child process that cannot outlive the controller, with its log in a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from loadproof.launch.component import Component
from loadproof.shipped import CHECKOUT

TOKEN: Final = "LOADPROOF_TOKEN"  # of a campaign: the programs that are started here do not see it
PACKAGES: Final = ("server", "clients", "controller")  # folders of a checkout that hold a package


class Child(Component):
    """A started program: its stderr (and stdout, unless it is piped) goes to `log`; leaving the context stops it.

    `told` is what it reads from standard input, a few KiB at most: a secret is neither in its command line nor in its
    environment, which others on the machine may see.

    It gets a process group of its own, so that Ctrl-C reaches only the controller, and the kernel kills it when the
    controller dies (`setpriv --pdeathsig`). The signal follows the thread that started it: start from the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        pipe: bool = False,
        told: str | None = None,
    ) -> None:
        self.name = name
        self.log: Path = log
        self.command: list[str] = list(command)
        self._stopping = False
        with log.open("ab") as sink:
            self.popen = subprocess.Popen(
                [*_kernel_kills_with_parent(), *command],
                stdin=subprocess.DEVNULL if told is None else subprocess.PIPE,
                stdout=subprocess.PIPE if pipe else sink,
                stderr=sink,
                env={name: value for name, value in (python_environment() | dict(env or {})).items() if name != TOKEN},
                start_new_session=True,
            )
        if self.popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.popen.stdin:
                self.popen.stdin.write(f"{told}\n".encode())

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe of a child that was started with one."""
        assert self.popen.stdout is not None
        return self.popen.stdout

    def pids(self) -> list[int]:
        return [self.popen.pid]

    def died(self) -> str | None:
        """How it ended, if it ended without having been stopped; None while it runs."""
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
