"""Divides the server's resources: CPUs, streams, threads, infer requests, connections and memory of each worker.

Each worker keeps to CPUs of its own, neighbours and whole cores, and OpenVINO sees no others (2026.4): a hint chooses
streams and threads for these, and threads that are pinned, as they are by default, do not meet those of other workers
on one CPU while another is free. `NUM_STREAMS`, `INFERENCE_NUM_THREADS` and `nireq` are the server's and are divided;
each worker has one at least. A cache directory has one directory for each worker, because OpenVINO locks none against
other processes.
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
    """Of worker `number`, from 0; the parts of all workers add up to the whole, unless that is less than they are."""

    number: int = 0
    workers: int = 1

    def part_of(self, total: int) -> int:
        return max(1, total // self.workers + (self.number < total % self.workers))

    def cpus(self, available: Iterable[int]) -> list[int]:
        """The worker's CPUs of those that the server may use, of which there are as many as workers at least."""
        ordered = sorted(available, key=_cpu_topology)
        begin, end = (len(ordered) * number // self.workers for number in (self.number, self.number + 1))
        return ordered[begin:end]

    def limits(self) -> Limits:
        """Bodies that are held at once have room for the largest in each worker, so that none is always refused."""
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
    """Package, core and number, so that neighbours share what they can."""
    try:
        package, core = (
            int(Path(_TOPOLOGY.format(cpu, name)).read_text()) for name in ("physical_package_id", "core_id")
        )
    except (OSError, ValueError):  # a machine that does not tell
        return 0, 0, cpu
    return package, core, cpu
