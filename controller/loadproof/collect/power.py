"""Reads the system's power during a run: the kernel's RAPL energy counters, or a meter behind a Prometheus."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from loadproof.collect import pages
from loadproof.rundir import SAMPLES
from loadproof.sections import Power

INTERVAL_S: Final = 1.0
TIMEOUT_S: Final = 5
ANSWER_BYTES_MAX: Final = 1 << 20


class PowerMeter:
    """Readings of a run, from a thread each second and at the window's edges; `problem` is why there are none."""

    def __init__(self, power: Power) -> None:
        self.problem: str | None = None
        self._power = power
        self._zones = _zones(Path(power.root)) if power.source == "rapl" else {}
        if power.source == "rapl" and not self._zones:
            self.problem = f"no RAPL counters in {power.root}: this kernel or machine offers none"
        self._readings: list[tuple[str, str, int, float]] = []  # name, zone, monotonic ns, value
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def idle(self) -> None:
        """Read at the start, each second and at the end of `idle_s`, while nothing runs yet."""
        end = time.monotonic() + self._power.idle_s
        if self._power.source == "constant" or not self._power.idle_s:
            return
        while self._read("idle_") and (left_s := end - time.monotonic()) > 0:
            time.sleep(min(INTERVAL_S, left_s))

    def follow(self, t0_monotonic_ns: int, edges_s: Sequence[float]) -> None:
        """Read now, at T0, each second from it and at the edges (seconds from T0), until `stop`."""
        if self._power.source == "constant" or not self._read(""):
            return
        self._thread = threading.Thread(target=self._run, args=(t0_monotonic_ns, edges_s), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what `follow` began with a last reading."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
            self._read("")

    def facts(self) -> dict[str, Any]:
        """For run.json: the source, where each counter begins again, what was stated, and what went wrong."""
        ranges = {zone: limit for zone, (_, limit) in self._zones.items()}
        facts = {"source": self._power.source, "watts": self._power.watts, "ranges_uj": ranges}
        return facts | {"problem": self.problem}

    def table(self, t0_monotonic_ns: int) -> pa.Table:
        """The readings as rundir.SAMPLES of the source "power": (idle_)energy_uj, or (idle_)watts."""
        rows = [
            ("power", name, json.dumps({"zone": zone}), (at_ns - t0_monotonic_ns) / 1e9, value)
            for name, zone, at_ns, value in self._readings
        ]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(SAMPLES.names)
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SAMPLES, strict=True)]
        return pa.table(arrays, schema=SAMPLES)

    def _run(self, t0_ns: int, edges_s: Sequence[float]) -> None:
        while True:
            now_s = (time.monotonic_ns() - t0_ns) / 1e9
            times_s = [max(0.0, np.floor(now_s / INTERVAL_S + 1) * INTERVAL_S), *edges_s]
            if self._stopped.wait(min(at_s for at_s in times_s if at_s > now_s) - now_s):
                return
            self._read("")

    def _read(self, prefix: str) -> bool:
        """Take a reading of each zone; False, and `problem`, where one cannot be had."""
        if self.problem:
            return False
        begun_ns = time.monotonic_ns()
        try:
            if self._power.source == "rapl":
                found = {zone: float((path / "energy_uj").read_text()) for zone, (path, _) in self._zones.items()}
                name = f"{prefix}energy_uj"
            else:
                found, name = {"meter": _ask(self._power)}, f"{prefix}watts"
        except (*pages.ERRORS, KeyError, TypeError, RecursionError) as error:
            self.problem = f"a reading failed: {error}"
            return False
        at_ns = (begun_ns + time.monotonic_ns()) // 2
        self._readings += [(name, zone, at_ns, value) for zone, value in found.items()]
        return True


def _zones(root: Path) -> dict[str, tuple[Path, float]]:
    """Each counter that adds to the whole, by its name: its directory, and where it begins again, in uJ.

    Those are packages and DRAM; cores and graphics are parts of a package (Documentation/power/powercap of Linux).
    """
    found = {}
    for path in sorted(root.glob("intel-rapl:*")):
        try:
            name = (path / "name").read_text().strip()
            limit = float((path / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            continue
        if name.startswith("package") or name == "dram":
            found[f"{name} {path.name.removeprefix('intel-rapl:')}"] = (path, limit)
    return found


def _ask(power: Power) -> float:
    """The watts that the query gives now; ValueError or KeyError where it gives none."""
    url = f"{str(power.url).rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': power.query})}"
    said = json.loads(pages.fetch(url, TIMEOUT_S, bytes_max=ANSWER_BYTES_MAX)[1])
    series = said["data"]["result"]
    if not series:
        raise ValueError(f"the query gives no series: {power.query}")
    return float(sum(float(one["value"][1]) for one in series))
