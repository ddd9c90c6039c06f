"""Reads, once a second, how this machine fares: its CPUs by whose work they did, waits for a core, frequencies, clock.

From /proc and /sys below a root (proc(5); the kernel's "PSI", "Control Group v2", "CPU Performance Scaling"). All that
grows is a counter, as in Prometheus. A reading of plans/quick.toml's 7 processes and 44 threads took 2.9 ms of CPU
(median of 8, 2.2 to 3.8, on two loaded cores of a virtual machine).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from loadproof import hardware
from loadproof.collect.metrics_text import Series
from loadproof_clients.kernel import read, thread_names, thread_waits_ns, wall_ns

CONTROLLER: Final = "controller"
CPUS_READ_MAX: Final = 16  # a frequency may take an interrupt on the CPU that is asked
_NO_LABELS: Final = "{}"


class Machine:
    """The readings of a run. What is not watched, and is no child of the controller, counts as another load."""

    def __init__(self, root: Path = Path("/"), processes: Path = Path("/proc")) -> None:
        """`root`: where /proc and /sys of the machine are; `processes`: where each process is."""
        self._root, self._processes = root, processes
        self._pids: dict[str, list[int]] = {}
        self._unseen: set[str] = set()
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self._cpu_ticks: dict[int, int] = {}
        self._wait_ns: dict[tuple[int, str], int] = {}
        self._cpu_s: dict[str, float] = defaultdict(float)
        self._waited_s: dict[str, float] = defaultdict(float)
        self._quotas: set[Path] = set()  # control groups of the components that have one
        cpus = sorted((root / hardware.CPUS).glob("cpu[0-9]*"))
        self._cpus = cpus[:: -(-len(cpus) // CPUS_READ_MAX) or 1]
        self.watch(CONTROLLER, [os.getpid()])

    def watch(self, component: str, pids: Collection[int] | None) -> None:
        """`pids` with all their descendants are that component's; None: it may run here, and cannot be seen.

        Then nobody knows whose the rest of the machine's work is, and `machine_own_seconds_total` is missing.
        """
        if pids is None:
            self._unseen.add(component)
            return
        self._pids[component] = [*self._pids.get(component, []), *pids]
        self._read_tree(component, set(), new=False)
        groups = {group for pid in pids for group in hardware.groups(self._root, str(pid))}
        self._quotas |= {group for group in groups if _throttled_s(group) is not None}

    def read(self) -> dict[Series, float]:
        """What is to be seen now; what the machine does not show is not there."""
        self._read_processes()
        found = {
            **self._stat(),
            "machine_pressure_seconds_total": self._pressure_s(),
            "machine_frequency_mhz": self._frequency_mhz(),
            "machine_thermal_throttles_total": self._thermal_throttles(),
            "machine_quota_throttled_seconds_total": self._throttled_s(),
            "machine_wall_seconds": wall_ns() / 1e9,
        }
        if not self._unseen:
            found["machine_own_seconds_total"] = sum(self._cpu_s.values())
        samples = {(name, _NO_LABELS): value for name, value in found.items() if value is not None}
        for component in self._pids:
            label = f'{{"party": "{component}"}}'  # the label in run directories
            samples["process_cpu_seconds_total", label] = self._cpu_s[component]
            samples["process_wait_seconds_total", label] = self._waited_s[component]
        return samples

    def _stat(self) -> dict[str, float | None]:
        """CPU seconds of the whole machine. Interrupts are left out: loopback's traffic is nobody's in them."""
        cpu, *rest = _lines(self._root / "proc/stat") or [""]
        ticks = _numbers(cpu.split()[1:])
        if len(ticks) < 8:
            return {}
        return {
            "machine_cpus": float(sum(line.startswith("cpu") for line in rest)),
            "machine_busy_seconds_total": sum(ticks[:3]) * self._tick_s,  # user, nice, system
            "machine_steal_seconds_total": ticks[7] * self._tick_s,
        }

    def _read_processes(self) -> None:
        """Each process of the components, once; what is left of the controller's descendants is the controller's."""
        seen: set[int] = set()
        for component in sorted(self._pids, key=lambda component: component == CONTROLLER):
            self._read_tree(component, seen)

    def _read_tree(self, component: str, seen: set[int], new: bool = True) -> None:
        stack = list(self._pids[component])
        while stack:
            if (pid := stack.pop()) not in seen:
                seen.add(pid)
                stack += self._read_process(component, pid, new)

    def _read_process(self, component: str, pid: int, new: bool) -> list[int]:
        """Adds what it did since the reading before; its children. What was not known before began since, if `new`."""
        place = self._processes / str(pid)
        user_and_system = _numbers(read(place / "stat").rpartition(")")[2].split()[11:13])
        if len(user_and_system) < 2:
            return []
        ticks = sum(user_and_system)
        before = self._cpu_ticks.get(pid, 0 if new else ticks)
        self._cpu_s[component] += max(0, ticks - before) * self._tick_s
        self._cpu_ticks[pid] = ticks
        children: list[int] = []
        for thread in thread_names(place):
            children += _numbers(read(place / "task" / thread / "children").split())
        for thread, waited_ns in thread_waits_ns(place).items():
            key = (pid, thread)
            before = self._wait_ns.get(key, 0 if new else waited_ns)
            self._waited_s[component] += max(0, waited_ns - before) / 1e9
            self._wait_ns[key] = waited_ns
        return children

    def _pressure_s(self) -> float | None:
        """How long some task, of anybody, was ready to run and had no CPU."""
        for line in _lines(self._root / "proc/pressure/cpu"):
            if line.startswith("some ") and (total_us := _numbers([line.rpartition("total=")[2]])):
                return total_us[0] / 1e6
        return None

    def _frequency_mhz(self) -> float | None:
        """The mean of the CPUs."""
        found = [khz for cpu in self._cpus for khz in _numbers([read(cpu / "cpufreq/scaling_cur_freq")])]
        return sum(found) / len(found) / 1000 if found else None

    def _thermal_throttles(self) -> float | None:
        names = ("core_throttle_count", "package_throttle_count")
        files = (cpu / "thermal_throttle" / name for cpu in self._cpus for name in names)
        found = [count for file in files for count in _numbers([read(file)])]
        return float(sum(found)) if found else None

    def _throttled_s(self) -> float | None:
        """How long the components' control groups were held back by their CPU quota, together."""
        found = [throttled for group in self._quotas if (throttled := _throttled_s(group)) is not None]
        return sum(found) if found else None


def _throttled_s(group: Path) -> float | None:
    """Of version 2 in us, of version 1 in ns; None where the group has no quota to count for."""
    for line in _lines(group / "cpu.stat"):
        name, _, value = line.partition(" ")
        if name in ("throttled_usec", "throttled_time") and (total := _numbers([value])):
            return total[0] / (1e6 if name == "throttled_usec" else 1e9)
    return None


def _numbers(texts: Sequence[str]) -> list[int]:
    """All of them, or none where one is no number: such a file is no measurement."""
    return [int(text) for text in texts] if all(text.isdecimal() for text in texts) else []


def _lines(path: Path) -> list[str]:
    return read(path).splitlines()
