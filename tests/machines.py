"""Machines made of network namespaces: a client's, a server's behind a slow relay, and one more whose clock is off.

    client 192.0.2.1 ── 192.0.2.2 relay 198.51.100.1 ── 198.51.100.2 server
           203.0.113.1 ── 203.0.113.2 worker (its monotonic clock AHEAD_S ahead, its pids its own)

The namespaces have no names: each lives as long as the process that holds it, and that one no longer than the test.
No address outside of them is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

import psutil

ROOT = Path(__file__).parent.parent
AHEAD_S: Final = 100
DELAY_MS: Final = 5
TOKEN: Final = "a token that only the tests know"  # the worker's and the controller's
HOSTS: Final = ("client", "relay", "server", "worker")
LINKS: Final = (
    ("client", "192.0.2.1", "relay", "192.0.2.2"),
    ("relay", "198.51.100.1", "server", "198.51.100.2"),
    ("client", "203.0.113.1", "worker", "203.0.113.2"),
)
RELAYED, SERVER, MASTER = "192.0.2.2", "198.51.100.2", "203.0.113.1"
WITH_PARENT: Final = ["setpriv", "--pdeathsig", "KILL", "--"]
ELSEWHERE: Final = ["unshare", "--time", "--monotonic", str(AHEAD_S), "--pid", "--kill-child", "--mount-proc", "--"]


def lacking() -> str | None:
    """Why there can be no such machines here."""
    if os.geteuid() != 0:
        return "root is needed"
    if absent := [program for program in ("ip", "unshare", "nsenter", "setpriv") if shutil.which(program) is None]:
        return f"not installed: {', '.join(absent)} (apt-get install iproute2 util-linux)"
    tried = subprocess.run(["unshare", "--net", *ELSEWHERE, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else None


class Machines:
    """All of them; leaving the context ends whatever runs on them, and them. To be made by the main thread."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._stack = contextlib.ExitStack()
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for host in HOSTS:
                command = [*WITH_PARENT, "unshare", "--net", "--", "sh", "-c", "echo; exec sleep 900"]
                self._holders[host] = holder = subprocess.Popen(command, stdout=subprocess.PIPE)
                self._stack.callback(_kill, holder)
                assert holder.stdout is not None
                holder.stdout.readline()  # it is in its namespace now
                self._ip(host, "link", "set", "lo", "up")
            for one, here, other, there in LINKS:
                pid = str(self._holders[other].pid)
                self._ip(one, "link", "add", other, "type", "veth", "peer", "name", one, "netns", pid)
                for host, peer, address in ((one, other, here), (other, one, there)):
                    self._ip(host, "address", "add", f"{address}/24", "dev", peer)
                    self._ip(host, "link", "set", peer, "up")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, host: str, name: str, *command: str, elsewhere: bool = False) -> subprocess.Popen[str]:
        """A Python program on `host`, its errors in a log; `elsewhere`: with another clock and other pids."""
        log = self._stack.enter_context((self._logs / f"{name}.err").open("w"))
        process = subprocess.Popen(
            [*WITH_PARENT, *self._on(host), *(ELSEWHERE if elsewhere else []), sys.executable, *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "LOADPROOF_TOKEN": TOKEN},
        )
        self._stack.callback(_kill, process)
        return process

    def said(self, name: str) -> str:
        return (self._logs / f"{name}.err").read_text()

    def cut(self, host: str, peer: str) -> None:
        """The cable between the two is pulled."""
        self._ip(host, "link", "set", peer, "down")

    def running(self, host: str) -> list[str]:
        """The command lines on `host`, but for the one that holds it."""
        namespace = os.readlink(f"/proc/{self._holders[host].pid}/ns/net")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/net") == namespace and process.pid != self._holders[host].pid:
                    found.append(" ".join(process.cmdline()))
        return found

    def _on(self, host: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holders[host].pid}/ns/net", "--"]

    def _ip(self, host: str, *arguments: str) -> None:
        subprocess.run([*self._on(host), "ip", *arguments], check=True, timeout=20)


def _kill(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.communicate()


def python_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The program itself, below what put it into its namespaces."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return next(one for one in family if one.cmdline()[:1] == [sys.executable])
