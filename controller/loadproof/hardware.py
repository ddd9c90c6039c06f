"""What the kernel says of this machine: CPUs, caches, frequencies, memory, virtualisation and limits.

Everything is read below a root (`/`), from /proc and /sys as the kernel's documentation describes them ("CPU
Performance Scaling", "Control Group v2", sysfs-devices-system-cpu). What it does not show is null.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

CPUS: Final = "sys/devices/system/cpu"
_TURBO: Final = {  # file -> what it holds where the turbo is on
    f"{CPUS}/intel_pstate/no_turbo": "0",
    f"{CPUS}/cpufreq/boost": "1",
}
_UNLIMITED_BYTES: Final = 1 << 62  # cgroup v1 says so by a number


def record(root: Path = Path("/")) -> dict[str, Any]:
    """The facts for campaign.json; sizes in bytes, frequencies in MHz."""
    cpus = sorted((root / CPUS).glob("cpu[0-9]*"))
    online = [cpu for cpu in cpus if _read(cpu / "online") != "0"]
    packages = [_read(cpu / "topology/physical_package_id") for cpu in online]
    cores = list(zip(packages, (_read(cpu / "topology/core_id") for cpu in online), strict=True))
    about = _read(root / "proc/cpuinfo") or ""
    return {
        "cpu_model": _field(about, "model name") or _field(about, "Model"),
        "sockets": len(set(packages)) or None,
        "cores": len(set(cores)) or None,
        "threads": len(online) or None,
        "smt": _read(root / CPUS / "smt/control"),
        "numa": _numa(root),
        "caches": _caches(online),
        "microcode": _field(about, "microcode"),
        "governor": _all_of(_read(cpu / "cpufreq/scaling_governor") for cpu in online),
        "frequency_driver": _all_of(_read(cpu / "cpufreq/scaling_driver") for cpu in online),
        "frequency_mhz": _frequencies(online),
        "turbo": _turbo(root),
        "isolated_cpus": _read(root / CPUS / "isolated") or None,
        "clock_source": _read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "memory_bytes": _memory_bytes(_read(root / "proc/meminfo") or ""),
        "huge_pages": _chosen(_read(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        "kernel": _read(root / "proc/sys/kernel/osrelease"),
        "virtualisation": _virtualisation(root, about),
        **_cgroup(root),
    }


def _numa(root: Path) -> dict[str, str] | None:
    nodes = sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
    return {node.name: _read(node / "cpulist") or "no CPUs" for node in nodes} or None


def _caches(cpus: Iterable[Path]) -> dict[str, str] | None:
    """`{"L2": "1024K x 4"}`: how large each is, and how many of them there are."""
    seen: dict[tuple[str, str, str], None] = {}
    for cpu in cpus:
        for index in sorted(cpu.glob("cache/index[0-9]*")):
            kind = {"Data": "d", "Instruction": "i"}.get(_read(index / "type") or "", "")
            name = f"L{_read(index / 'level')}{kind}"
            seen[name, _read(index / "size") or "of unknown size", _read(index / "shared_cpu_list") or cpu.name] = None
    counts = Counter((name, size) for name, size, _ in seen)
    return {name: f"{size} x {count}" for (name, size), count in sorted(counts.items())} or None


def _frequencies(cpus: Iterable[Path]) -> dict[str, float] | None:
    """What may be chosen, of all CPUs: `min` and `max` as set, `hardware_max` as the processor has it."""
    files = {
        "min": ("scaling_min_freq", min),
        "max": ("scaling_max_freq", max),
        "hardware_max": ("cpuinfo_max_freq", max),
    }
    cpus = list(cpus)
    found = {}
    for name, (file, pick) in files.items():
        values = [int(text) for cpu in cpus if (text := _read(cpu / "cpufreq" / file)) and text.isdecimal()]
        if values:
            found[name] = pick(values) / 1000
    return found or None


def _turbo(root: Path) -> str | None:
    for file, on in _TURBO.items():
        if (found := _read(root / file)) is not None:
            return "on" if found == on else "off"
    return None


def _virtualisation(root: Path, about: str) -> str:
    """`none`, or what the machine calls itself; and the container, where this is one."""
    names = [_read(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    product = " ".join(part for part in names if part)
    flags = (_field(about, "flags") or _field(about, "Features") or "").split()
    guest = "hypervisor" in flags or (root / "sys/hypervisor/type").exists()
    machine = f"virtual machine{f' ({product})' if product else ''}" if guest else "none"
    inside = [
        name for file, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman")) if (root / file).exists()
    ]
    return f"{machine}, in a {inside[0]} container" if inside else machine


def _cgroup(root: Path) -> dict[str, Any]:
    """The tightest limits on this process by any of its groups."""
    own = list(groups(root))
    cpus = [limit for group in own if (limit := _cpu_limit(group)) is not None]
    memory = [limit for group in own if (limit := _memory_limit(group)) is not None]
    files = ("cpuset.cpus.effective", "cpuset.effective_cpus")  # of version 2, of version 1
    cpusets = [found for group in own for file in files if (found := _read(group / file))]
    return {
        "cgroup_cpus": min(cpus, default=None),
        "cgroup_memory_bytes": min(memory, default=None),
        "cgroup_cpuset": next(iter(cpusets), None),
    }


def groups(root: Path, process: str = "self") -> Iterator[Path]:
    """The process's groups and those above them, as directories; of version 2, or of each controller of version 1."""
    for line in (_read(root / "proc" / process / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for mount in [controllers.removeprefix("name=")] if controllers else ["", "unified"]:
            base = root / "sys/fs/cgroup" / mount
            group = base / path.strip("/")
            # In a container the path may be that of the host, where its own root is what is mounted
            yield from (one for one in (group, *group.parents) if one.is_relative_to(base) and one.is_dir())


def _cpu_limit(group: Path) -> float | None:
    """Version 2: "QUOTA PERIOD" or "max PERIOD"; version 1: two files, -1 for no limit."""
    quota, _, period = (_read(group / "cpu.max") or "").partition(" ")
    if not quota:
        quota, period = _read(group / "cpu.cfs_quota_us") or "", _read(group / "cpu.cfs_period_us") or ""
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _memory_limit(group: Path) -> int | None:
    limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes") or ""
    return int(limit) if limit.isdecimal() and int(limit) < _UNLIMITED_BYTES else None


def _memory_bytes(meminfo: str) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _field(text: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


def _all_of(values: Iterable[str | None]) -> str | None:
    """The value, or all that there are: `performance, powersave`."""
    return ", ".join(dict.fromkeys(value for value in values if value)) or None


def _chosen(text: str | None) -> str | None:
    """`always` of `[always] madvise never`."""
    found = re.search(r"\[(\w+)\]", text or "")
    return found.group(1) if found else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
