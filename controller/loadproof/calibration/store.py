"""The calibration's one file: in the user's state directory, with the machine and the versions that it holds for.

Schema 2: `created` (UTC), `identity`, and `ways`: for each API, protocol and transport a worker process's ceiling
(requests/s, its 99 % bounds, CPU) and floor (latency of one client against a server that answers at once).
Schema 1 had no API: a calibration of it is made again.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from loadproof import environment, hardware, rundir

SCHEMA: Final = 2
CURE: Final = "loadproof doctor --calibrate"
# What a request passes through on the client's side. Another version of one of them may be faster or slower.
PACKAGES: Final = (
    "loadproof",
    "locust",
    "gevent",
    "grpcio",
    "tritonclient",
    "geventhttpclient",
    "protobuf",
    "hpack",
    "numpy",
)
State = Literal["none", "valid", "stale", "broken", "elsewhere"]


@dataclass(frozen=True)
class Calibration:
    """What the file says; `note` says why it is not used, if it is not. Only a valid one has `ways`."""

    state: State
    note: str | None = None
    created: str | None = None
    ways: Sequence[Mapping[str, Any]] = ()
    threads: int | None = None  # CPUs that a process could use

    def record(self) -> dict[str, Any]:
        """For campaign.json."""
        return {
            "state": self.state,
            "note": self.note,
            "created": self.created,
            "threads": self.threads,
            "ways": list(self.ways),
        }


def path() -> Path:
    """Where it is kept: below XDG_STATE_HOME, or ~/.local/state (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return home / "loadproof" / "calibration.json"


def identity() -> dict[str, Any]:
    """The machine and versions that a calibration holds for."""
    threads = len(os.sched_getaffinity(0))
    machine = {"cpu_model": hardware.record()["cpu_model"], "threads": threads, "python": platform.python_version()}
    return {**machine, **{name: environment.version(name) for name in PACKAGES}}


def write(ways: Sequence[Mapping[str, Any]]) -> Path:
    """Keeps it, in place of an earlier one; returns where. Raises OSError."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"schema": SCHEMA, "created": created, "identity": identity(), "ways": list(ways)}
    rundir.write_text(path(), json.dumps(content, indent=1) + "\n")
    return path()


def read() -> Calibration:
    """What is kept, and whether it holds for this machine as it is now; never raises."""
    try:
        content = json.loads(path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Calibration("none", "this machine's load generator was not calibrated")
    except (OSError, ValueError) as error:
        return Calibration("broken", f"{path()} cannot be read ({error})")
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return Calibration("stale", f"{path()} is of another Loadproof")
    then, now = content.get("identity"), identity()
    if not isinstance(then, dict) or not isinstance(content.get("ways"), list):
        return Calibration("broken", f"{path()} has no machine or no figures in it")
    changed = [f"{name} was {then.get(name)} and is {now[name]}" for name in now if then.get(name) != now[name]]
    if changed:
        return Calibration("stale", f"since {content['created']} has changed: {'; '.join(changed)}", content["created"])
    return Calibration("valid", None, content["created"], content["ways"], now["threads"])
