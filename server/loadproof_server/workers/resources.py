"""Divides the server's resources: CPUs, streams, threads, infer requests, connections and memory of each worker.

Each worker has CPUs of its own, neighbours and whole cores, and OpenVINO sees no others (2026.4): a hint chooses
streams and threads for these. Pinned threads, which are the default, do not share a CPU with those of other workers
while another CPU is free. `NUM_STREAMS`, `INFERENCE_NUM_THREADS` and `nireq` are given for the whole server and
divided; each worker gets at least one. A cache directory has one directory for each worker, because OpenVINO does not
lock it against other processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from loadproof_server.connections.listener import Limits
from loadproof_server.repository.settings import Configuration, ModelSettings

_DIVIDED: Final = ("NUM_STREAMS", "INFERENCE_NUM_THREADS")
_TOPOLOGY: Final = "/sys/devices/system/cpu/cpu{}/topology/{}"


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """The part of worker `number`, from 0; all parts add up to the total, unless that is smaller than `workers`."""

    number: int = 0
    workers: int = 1

    def part_of(self, total: int) -> int:
        return max(1, total // self.workers + (self.number < total % self.workers))

    def cpus(self, available: Iterable[int]) -> list[int]:
        """The worker's CPUs out of `available`, which has at least as many CPUs as there are workers."""
        ordered = sorted(available, key=_cpu_topology)
        begin, end = (len(ordered) * number // self.workers for number in (self.number, self.number + 1))
        return ordered[begin:end]

    def limits(self) -> Limits:
        """Connections and held bytes are divided, but each worker has room for the largest body."""
        whole = Limits()
        held_bytes = max(whole.body_bytes, whole.held_bytes // self.workers)
        return replace(whole, connections=self.part_of(whole.connections), held_bytes=held_bytes)

    def configuration(self, whole: Configuration) -> Configuration:
        if self.workers == 1:
            return whole
        return replace(whole, models=tuple(self._settings(model) for model in whole.models))

    def _settings(self, model: ModelSettings) -> ModelSettings:
        nireq = model.nireq and self.part_of(model.nireq)
        return replace(model, nireq=nireq, plugin_config=self._properties(model.plugin_config))

    def _properties(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._property(name, value) for name, value in properties.items()}

    def _property(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):  # as DEVICE_PROPERTIES has them
            return self._properties(value)
        if name in _DIVIDED and str(value).isdecimal() and int(value):
            return type(value)(self.part_of(int(value)))
        if name == "CACHE_DIR" and value:
            return str(Path(value) / f"worker-{self.number + 1}")
        return value


def _cpu_topology(cpu: int) -> tuple[int, int, int]:
    """Package, core and number: the order in which neighbours share caches."""
    try:
        package, core = (
            int(Path(_TOPOLOGY.format(cpu, name)).read_text()) for name in ("physical_package_id", "core_id")
        )
    except (OSError, ValueError):  # the machine does not report its topology
        return 0, 0, cpu
    return package, core, cpu
