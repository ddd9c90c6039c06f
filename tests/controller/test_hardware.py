"""What is read of /proc and /sys, from trees as machines of several kinds show them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from loadproof import hardware

CPUS = "sys/devices/system/cpu"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def cpu(number: int, package: int, core: int, siblings: str, **more: str) -> dict[str, str]:
    files = {"topology/physical_package_id": str(package), "topology/core_id": str(core)}
    files |= {f"cache/index{index}/{key}": value for index, (level, kind, size, shared) in enumerate(
        [("1", "Data", "48K", siblings), ("1", "Instruction", "32K", siblings), ("2", "Unified", "2048K", siblings),
         ("3", "Unified", "61440K", f"socket{package}")]
    ) for key, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared))}  # fmt: skip
    return {f"{CPUS}/cpu{number}/{name}": text for name, text in (files | more).items()}


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Two sockets of two cores of two threads, the last thread switched off; a service with limits (cgroup v2)."""
    files: dict[str, str] = {}
    for number in range(8):
        core, package = number % 2, number // 2 % 2
        frequency = {
            "scaling_governor": "powersave" if number == 3 else "performance",
            "scaling_driver": "intel_pstate",
        }
        frequency |= {"scaling_min_freq": "800000", "scaling_max_freq": "3500000", "cpuinfo_max_freq": "3800000"}
        siblings = f"{number % 4},{number % 4 + 4}"
        more = {f"cpufreq/{name}": text for name, text in frequency.items()}
        files |= cpu(number, package, core, siblings, **more, online="0" if number == 7 else "1")
    files |= {
        "proc/cpuinfo": "model name\t: Intel(R) Xeon(R) Gold 6430\nmicrocode\t: 0x2b000603\nflags\t\t: fpu",
        "proc/meminfo": "MemTotal:       263856848 kB\nMemFree: 1 kB",
        "proc/sys/kernel/osrelease": "6.1.0-26-amd64",
        "proc/self/cgroup": "0::/system.slice/bench.service",
        "sys/fs/cgroup/cpuset.cpus.effective": "0-7",
        "sys/fs/cgroup/system.slice/cpu.max": "max 100000",
        "sys/fs/cgroup/system.slice/memory.max": "8589934592",
        "sys/fs/cgroup/system.slice/bench.service/cpu.max": "250000 100000",
        "sys/fs/cgroup/system.slice/bench.service/memory.max": "max",
        "sys/fs/cgroup/system.slice/bench.service/cpuset.cpus.effective": "0-3",
        f"{CPUS}/smt/control": "on",
        f"{CPUS}/isolated": "2-3",
        f"{CPUS}/intel_pstate/no_turbo": "1",
        "sys/devices/system/node/node0/cpulist": "0-1,4-5",
        "sys/devices/system/node/node1/cpulist": "2-3,6-7",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "sys/class/dmi/id/sys_vendor": "Dell Inc.",
        "sys/class/dmi/id/product_name": "PowerEdge R760",
    }
    return tree(tmp_path, files)


def test_a_server_is_known_in_full(server: Path) -> None:
    assert hardware.record(server) == {
        "cpu_model": "Intel(R) Xeon(R) Gold 6430",
        "sockets": 2,
        "cores": 4,
        "threads": 7,
        "smt": "on",
        "numa": {"node0": "0-1,4-5", "node1": "2-3,6-7"},
        "caches": {"L1d": "48K x 4", "L1i": "32K x 4", "L2": "2048K x 4", "L3": "61440K x 2"},
        "microcode": "0x2b000603",
        "governor": "performance, powersave",
        "frequency_driver": "intel_pstate",
        "frequency_mhz": {"min": 800.0, "max": 3500.0, "hardware_max": 3800.0},
        "turbo": "off",
        "isolated_cpus": "2-3",
        "clock_source": "tsc",
        "memory_bytes": 263856848 * 1024,
        "huge_pages": "madvise",
        "kernel": "6.1.0-26-amd64",
        "virtualisation": "none",
        "cgroup_cpus": 2.5,
        "cgroup_memory_bytes": 8 * 2**30,
        "cgroup_cpuset": "0-3",
    }


def test_a_machine_that_tells_nothing_is_all_null_but_no_error(tmp_path: Path) -> None:
    record = hardware.record(tmp_path)
    assert record.pop("virtualisation") == "none"
    assert set(record.values()) == {None}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"proc/cpuinfo": "flags : fpu hypervisor"}, "virtual machine"),
        (
            {
                "proc/cpuinfo": "flags : fpu hypervisor",
                "sys/class/dmi/id/sys_vendor": "QEMU",
                "sys/class/dmi/id/product_name": "Standard PC",
            },
            "virtual machine (QEMU Standard PC)",
        ),
        ({"sys/hypervisor/type": "xen", ".dockerenv": ""}, "virtual machine, in a docker container"),
        ({"run/.containerenv": ""}, "none, in a podman container"),
    ],
)
def test_virtual_machines_and_containers_are_told(tmp_path: Path, files: dict[str, str], told: str) -> None:
    assert hardware.record(tree(tmp_path, files))["virtualisation"] == told


@pytest.mark.parametrize(("file", "text", "turbo"), [
    ("intel_pstate/no_turbo", "0", "on"), ("cpufreq/boost", "1", "on"), ("cpufreq/boost", "0", "off"),
])  # fmt: skip
def test_the_turbo_is_known_of_either_driver(tmp_path: Path, file: str, text: str, turbo: str) -> None:
    assert hardware.record(tree(tmp_path, {f"{CPUS}/{file}": text}))["turbo"] == turbo


def test_a_containers_limits_stand_at_its_own_root(tmp_path: Path) -> None:
    """Docker shows the host's path where the namespace is the host's, and mounts the group itself."""
    files = {"proc/self/cgroup": "0::/docker/4f2a", "sys/fs/cgroup/cpu.max": "150000 100000"}
    assert hardware.record(tree(tmp_path, files))["cgroup_cpus"] == 1.5


def test_limits_of_cgroup_version_1_are_read_from_each_controller(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/box\n4:cpu,cpuacct:/box\n3:cpuset:/\n1:name=systemd:/",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1073741824",
        "sys/fs/cgroup/cpuset/cpuset.effective_cpus": "0-1",
    }
    record = hardware.record(tree(tmp_path, files))
    limits = {name: record[name] for name in ("cgroup_cpus", "cgroup_memory_bytes", "cgroup_cpuset")}
    assert limits == {"cgroup_cpus": 0.5, "cgroup_memory_bytes": 2**30, "cgroup_cpuset": "0-1"}


def test_this_machine_is_known_as_psutil_knows_it() -> None:
    record = hardware.record()
    assert record["threads"] == psutil.cpu_count()
    assert record["memory_bytes"] == psutil.virtual_memory().total
    assert record["cpu_model"] and record["kernel"]
