"""What this machine lacks for a campaign, each line with its cure."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.text import Text

from loadproof import calibration, environment
from loadproof.report.terminal import say

STYLES: Final = {"ok": "green", "note": "yellow", "lacks": "bold red"}


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


def show(findings: Sequence[Finding], console: Console) -> None:
    """A line each, its cure below it, and last what follows."""
    for finding in findings:
        lead = Text.assemble((f"{finding.level:<7}", STYLES[finding.level]), f"{finding.subject:<14}")
        say(console, Text(finding.found), lead)
        if finding.cure:
            say(console, Text(f"cure: {finding.cure}", "bold"), Text(" " * len(lead)))
    lacking = [finding.subject for finding in findings if finding.level == "lacks"]
    ready = "Ready for a first campaign: loadproof run plans/quick.toml (notes stop nothing)"
    say(console, Text(f"\nA campaign will not run without: {', '.join(lacking)}." if lacking else f"\n{ready}"))


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


def _prometheus() -> Finding:
    if environment.prometheus_program() is None:
        return Finding("note", "Prometheus", "not installed", "apt-get install prometheus, to watch runs with --watch")
    return Finding("ok", "Prometheus", "installed, for loadproof run --watch")


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
            "note", "setpriv", "not found", "apt-get install util-linux, or a killed controller leaves processes behind"
        )
    return Finding("ok", "setpriv", "a killed controller leaves no process behind")


def _calibration() -> Finding:
    found = calibration.read()
    if found.state == "valid":
        ceilings = ", ".join(
            f"{cell['api']} {cell['transport']} {cell['protocol']} {cell['ceiling_rps']:,.0f}" for cell in found.ways
        )
        return Finding("ok", "calibration", f"{found.created}; requests/s of a worker: {ceilings}")
    cure = f"{calibration.CURE} (a minute, while nothing else runs)"
    none = "none: how near runs come to this machine's own limits is not known"
    texts = {"none": none, "stale": f"stale: {found.note}", "broken": found.note or ""}
    return Finding("note", "calibration", texts[found.state], cure)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _packages,
    _haproxy,
    _prometheus,
    _cores,
    _governor,
    _files,
    _leftovers,
    _calibration,
)
