"""What this machine lacks for a campaign, each line with its cure."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from controller import environment


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: `level` is "ok", "lacks" (a campaign will not run) or "note"."""

    level: str
    subject: str
    found: str
    cure: str = ""


def examine() -> list[Finding]:
    """Every check, in the order of importance."""
    return [check() for check in _CHECKS]


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("ok", "Python", found)  # an older one cannot have installed this package


def _packages() -> Finding:
    missing = [
        name for name in ("openvino", "grpcio", "tritonclient", "locust", "pyarrow") if not environment.version(name)
    ]
    if missing:
        return Finding("lacks", "packages", f"without {', '.join(missing)}", "pip install 'loadproof[all]'")
    return Finding(
        "ok", "packages", f"openvino {environment.version('openvino')}, locust {environment.version('locust')}"
    )


def _haproxy() -> Finding:
    found = environment.haproxy_version()
    if found is None:
        return Finding("lacks", "HAProxy", "not installed", "apt-get install haproxy (or: --set load.via=direct)")
    if environment.is_too_old(found):
        return Finding("lacks", "HAProxy", found, f"install version {environment.HAPROXY_OLDEST} or newer")
    return Finding("ok", "HAProxy", found)


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0))
    if usable < 2:
        return Finding("note", "cores", "1", "server and load share one core: figures say little; give two or more")
    return Finding("ok", "cores", str(usable))


def _governor() -> Finding:
    governor = environment.record()["governor"]
    if governor not in (None, "performance"):
        return Finding(
            "note", "CPU governor", governor, "cpupower frequency-set -g performance makes figures repeat better"
        )
    return Finding("ok", "CPU governor", governor or "not shown by this (virtual) machine")


def _files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        return Finding("note", "open files", str(soft), "ulimit -n 65536 before runs with more than 500 clients")
    return Finding("ok", "open files", str(soft))


def _leftovers() -> Finding:
    if shutil.which("setpriv") is None:
        return Finding(
            "note", "setpriv", "not found", "apt-get install util-linux: else a killed controller leaves processes"
        )
    return Finding("ok", "setpriv", "children end with the controller")


_CHECKS: tuple[Callable[[], Finding], ...] = (_python, _packages, _haproxy, _cores, _governor, _files, _leftovers)
