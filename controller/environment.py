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
    """HAProxy's version, as in `2.6.12`."""
    if (program := haproxy_program()) is None:
        return None
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"version (\d+\.\d+\.\d+)", said)
    return found.group(1) if found else None


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
