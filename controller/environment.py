"""What a campaign was measured on: hardware, kernel, versions; nothing secret, no environment variables."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "openvino",
    "grpcio",
    "tritonclient",
    "locust",
    "gevent",
    "geventhttpclient",
    "uvicorn",
    "numpy",
    "protobuf",
)

HAPROXY_OLDEST = "2.4"  # named defaults, log ring over TCP


def record() -> dict[str, Any]:
    """The facts for campaign.json; what the machine does not tell is null."""
    return {
        "cpu_model": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "usable_threads": len(os.sched_getaffinity(0)),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "system": _system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "haproxy": haproxy_version(),
    }


def version(package: str) -> str | None:
    """The installed version of a Python package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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


def _cpu_model() -> str | None:
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return found.group(1) if found else platform.processor() or None


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
