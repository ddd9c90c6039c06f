"""What a campaign was measured on: hardware, kernel, versions, revisions; nothing secret."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from loadproof import hardware
from loadproof.shipped import CHECKOUT

PACKAGES = (
    "openvino",
    "grpcio",
    "tritonclient",
    "locust",
    "gevent",
    "geventhttpclient",
    "hpack",
    "uvloop",
    "httptools",
    "numpy",
    "protobuf",
    "prometheus-client",
    "docker",
)
# The only environment variables that are recorded: they change how fast the programs are, and hold no secrets.
VARIABLES = (
    "GLIBC_TUNABLES",
    "GRPC_POLL_STRATEGY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_CONF",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "PYTHONMALLOC",
)

HAPROXY_OLDEST = "2.4"  # named defaults, log ring over TCP


def record(root: Path = Path("/")) -> dict[str, Any]:
    """The facts for campaign.json; what the machine does not show is null. /proc and /sys are read below `root`."""
    return {
        **hardware.record(root),
        "usable_threads": len(os.sched_getaffinity(0)),
        "system": _system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "haproxy": haproxy_version(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "revision": revision(Path.cwd()),
        "loadproof_revision": revision(CHECKOUT) if CHECKOUT else None,
    }


def revision(directory: Path) -> str | None:
    """The Git commit that is checked out there, `4e2a... with changes` where files differ; None where there is none."""
    commit = _git(directory, "rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit} with changes" if _git(directory, "status", "--porcelain", "--untracked-files=no") else commit


def version(package: str) -> str | None:
    """The installed version of a Python package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def prometheus_program() -> str | None:
    """Where Prometheus is; None where there is none."""
    return shutil.which("prometheus")


def haproxy_program() -> str | None:
    """Where HAProxy is; Debian puts it into /usr/sbin, which is not on every user's PATH."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


def haproxy_version() -> str | None:
    """HAProxy's version, as in `2.6.12`; None where there is no HAProxy."""
    if (program := haproxy_program()) is None:
        return None
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"version (\d+\.\d+[\w.]*)", said)
    return found.group(1) if found else "of unknown version"


def is_too_old(haproxy: str | None) -> bool:
    """Whether this version of HAProxy cannot read the balancer's configuration; an unknown one may."""
    found = re.match(r"(\d+)\.(\d+)", haproxy or "")
    oldest = tuple(int(part) for part in HAPROXY_OLDEST.split("."))
    return found is not None and (int(found.group(1)), int(found.group(2))) < oldest


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(directory), *arguments],
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a file system that does not answer
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()
