"""The machine as it is read: trees of /proc and /sys in the kernel's layout, and what the verdict makes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest

from loadproof import rundir
from loadproof.analyse import machine as analysis
from loadproof.analyse import schema
from loadproof.analyse.checks import REASONS
from loadproof.analyse.population import Window
from loadproof.collect.machine import CONTROLLER, Machine
from tests.controller.summaries import run_summary

HZ: Final = os.sysconf("SC_CLK_TCK")
SELF: Final = os.getpid()  # the controller, in the recorded tree as well
SERVER, CHILD, STRANGER = 4_100_001, 4_100_002, 4_100_003
GROUP: Final = "sys/fs/cgroup/bench.slice/server.scope"


@dataclass
class Tree:
    """A two-CPU machine's /proc and /sys in a directory; each process has one thread."""

    root: Path
    parents: dict[int, int] = field(default_factory=dict)

    def put(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cpu(self, user: int = 0, system: int = 0, steal: int = 0, softirq: int = 0) -> None:
        """proc/stat: user nice system idle iowait irq softirq steal guest guest_nice, in ticks since boot."""
        first = f"cpu  {user} 0 {system} 9000 10 0 {softirq} {steal} 0 0\n"
        each = "".join(f"cpu{number} {user // 2} 0 {system // 2} 4500 5 0 0 {steal // 2} 0 0\n" for number in (0, 1))
        self.put("proc/stat", f"{first}{each}intr 9127 0 9\nctxt 1234\nbtime 1760000000\nprocesses 77\n")

    def process(self, pid: int, ticks: int = 0, waited_ns: int = 0, parent: int = 1, name: str = "python") -> None:
        """Its stat (52 fields of proc(5), utime and stime the 14th and 15th), its thread's schedstat, its parent's
        children."""
        self.put(
            f"proc/{pid}/stat", f"{pid} ({name}) S {parent} {pid} {pid} 0 -1 4194304 8 0 0 0 {ticks} 0{' 0' * 37}\n"
        )
        self.put(f"proc/{pid}/task/{pid}/schedstat", f"{ticks * 10**7} {waited_ns} 12\n")
        self.put(f"proc/{pid}/task/{pid}/children", "")
        self.parents[pid] = parent
        if parent in self.parents:
            own = [str(one) for one, of in self.parents.items() if of == parent]
            self.put(f"proc/{parent}/task/{parent}/children", "".join(f"{one} " for one in own))

    def frequency(self, *khz: int) -> None:
        for number, value in enumerate(khz):
            self.put(f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq", f"{value}\n")

    def throttles(self, core: int, package: int) -> None:
        place = "sys/devices/system/cpu/cpu0/thermal_throttle"
        self.put(f"{place}/core_throttle_count", f"{core}\n")
        self.put(f"{place}/package_throttle_count", f"{package}\n")

    def pressure(self, some_us: int) -> None:
        averages = "avg10=1.53 avg60=0.40 avg300=0.10"
        self.put("proc/pressure/cpu", f"some {averages} total={some_us}\nfull {averages} total=0\n")

    def quota(self, throttled_us: int) -> None:
        """The server's control group (version 2), one level below one without a quota."""
        self.put(f"proc/{SERVER}/cgroup", "0::/bench.slice/server.scope\n")
        self.put("sys/fs/cgroup/bench.slice/cpu.stat", "usage_usec 990\nuser_usec 900\nsystem_usec 90\n")
        counts = f"nr_periods 90\nnr_throttled 9\nthrottled_usec {throttled_us}\nnr_bursts 0\n"
        self.put(f"{GROUP}/cpu.stat", f"usage_usec 990\nuser_usec 900\nsystem_usec 90\n{counts}")

    def machine(self) -> Machine:
        return Machine(self.root, self.root / "proc")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A quiet machine with the controller, a server, and a stranger."""
    made = Tree(tmp_path)
    made.cpu(user=5000, system=3000, steal=40)
    made.frequency(2_000_000, 3_000_000)
    made.throttles(core=3, package=4)
    made.pressure(7_000_000)
    for pid in (SELF, SERVER, STRANGER):
        made.process(pid, ticks=500, waited_ns=10**9)
    made.quota(throttled_us=250_000)
    return made


def read(machine: Machine) -> dict[str, float]:
    """By name, and by name and party where there is one."""
    labelled = ((name, json.loads(labels), value) for (name, labels), value in machine.read().items())
    return {" ".join([name, *labels.values()]): value for name, labels, value in labelled}


def test_the_whole_machine_is_told_in_seconds_and_mhz(tree: Tree) -> None:
    machine = tree.machine()
    machine.watch("server", [SERVER])
    found = read(machine)
    assert found["machine_cpus"] == 2
    assert found["machine_busy_seconds_total"] == pytest.approx(8000 / HZ)
    assert found["machine_steal_seconds_total"] == pytest.approx(40 / HZ)
    assert found["machine_pressure_seconds_total"] == pytest.approx(7)
    assert found["machine_frequency_mhz"] == pytest.approx(2500)
    assert found["machine_thermal_throttles_total"] == 7
    assert found["machine_quota_throttled_seconds_total"] == pytest.approx(0.25)


def test_interrupts_are_nobodys_work(tree: Tree) -> None:
    machine = tree.machine()
    before = read(machine)["machine_busy_seconds_total"]
    tree.cpu(user=5000, system=3000, steal=40, softirq=700)
    assert read(machine)["machine_busy_seconds_total"] == before


def test_only_what_was_done_since_it_is_watched_is_the_runs_own(tree: Tree) -> None:
    machine = tree.machine()
    machine.watch("server", [SERVER])
    assert read(machine)["machine_own_seconds_total"] == 0
    tree.process(SELF, ticks=510)
    tree.process(SERVER, ticks=530, waited_ns=10**9 + 2 * 10**8)
    tree.process(STRANGER, ticks=5000)
    found = read(machine)
    assert found["machine_own_seconds_total"] == pytest.approx(40 / HZ)
    assert found["process_cpu_seconds_total controller"] == pytest.approx(10 / HZ)
    assert found["process_cpu_seconds_total server"] == pytest.approx(30 / HZ)
    assert found["process_wait_seconds_total server"] == pytest.approx(0.2)


def test_a_child_that_began_meanwhile_counts_with_all_that_it_did_and_stays_counted_when_it_ended(tree: Tree) -> None:
    machine = tree.machine()
    tree.process(CHILD, ticks=25, parent=SELF, name="a name) of (two words")
    assert read(machine)["process_cpu_seconds_total controller"] == pytest.approx(25 / HZ)
    for name in (f"proc/{CHILD}/stat", f"proc/{CHILD}/task/{CHILD}/schedstat", f"proc/{CHILD}/task/{CHILD}/children"):
        (tree.root / name).unlink()
    assert read(machine)["process_cpu_seconds_total controller"] == pytest.approx(25 / HZ)


def test_a_child_of_the_controller_that_is_a_partys_is_not_the_controllers_too(tree: Tree) -> None:
    machine = tree.machine()
    tree.process(CHILD, ticks=0, parent=SELF)
    machine.watch("balancer", [CHILD])
    tree.process(CHILD, ticks=60, parent=SELF)
    found = read(machine)
    assert found["process_cpu_seconds_total balancer"] == pytest.approx(60 / HZ)
    assert found["process_cpu_seconds_total controller"] == 0
    assert found["machine_own_seconds_total"] == pytest.approx(60 / HZ)


def test_where_a_party_cannot_be_seen_nobody_knows_whose_the_rest_is(tree: Tree) -> None:
    machine = tree.machine()
    machine.watch("server", None)
    assert "machine_own_seconds_total" not in read(machine)


def test_a_quota_of_version_1_is_in_ns(tree: Tree) -> None:
    tree.put(f"proc/{SERVER}/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    tree.put(
        "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\n"
    )
    machine = tree.machine()
    machine.watch("server", [SERVER])
    assert read(machine)["machine_quota_throttled_seconds_total"] == pytest.approx(1.5)


WALL: Final = {"machine_wall_seconds"}
OWN: Final = {
    "machine_own_seconds_total",
    "process_cpu_seconds_total controller",
    "process_wait_seconds_total controller",
}


def test_what_the_machine_does_not_show_is_not_there(tmp_path: Path) -> None:
    """As on another kernel: neither /proc nor /sys has anything."""
    assert set(read(Machine(tmp_path, tmp_path / "proc"))) == WALL | OWN


@pytest.mark.parametrize(
    ("file", "text", "missing"),
    [
        ("proc/stat", "cpu  1 2 3\n", "machine_busy_seconds_total"),  # before Linux 2.6.11 there was no steal
        ("proc/stat", "cpu  1 2 x 4 5 6 7 8\n", "machine_steal_seconds_total"),
        ("proc/stat", "", "machine_cpus"),
        ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=\n", "machine_pressure_seconds_total"),
        ("proc/pressure/cpu", "full avg10=0.00 total=9\n", "machine_pressure_seconds_total"),
        (f"{GROUP}/cpu.stat", "throttled_usec\n", "machine_quota_throttled_seconds_total"),
    ],
)
def test_a_file_that_holds_no_number_is_no_measurement(tree: Tree, file: str, text: str, missing: str) -> None:
    tree.put(file, text)
    machine = tree.machine()
    machine.watch("server", [SERVER])
    found = read(machine)
    assert missing not in found
    assert {"machine_frequency_mhz", "machine_thermal_throttles_total", *OWN} <= set(found)


def test_a_cpu_that_tells_no_frequency_is_left_out(tree: Tree) -> None:
    tree.put("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "<unknown>\n")
    assert read(tree.machine())["machine_frequency_mhz"] == pytest.approx(2000)


def test_a_process_whose_files_cannot_be_read_adds_nothing(tree: Tree) -> None:
    machine = tree.machine()
    machine.watch("server", [SERVER])
    tree.put(f"proc/{SERVER}/stat", f"{SERVER} (python) S 1\n")
    tree.put(f"proc/{SELF}/task/{SELF}/schedstat", "0 0\n")
    tree.put(f"proc/{SELF}/task/{SELF}/children", "? ?\n")
    found = read(machine)
    assert found["machine_own_seconds_total"] == 0
    assert found["process_wait_seconds_total controller"] == 0


SECONDS: Final = 12
OF_THE_MACHINE: Final = ("other_load", "cpu_stolen", "cpu_speed_changed", "clock_stepped")
Second = Callable[[Tree, int], None]


def quiet(tree: Tree, second: int) -> None:
    """The run's own server works for a fifth of each second, and the machine's counter says so as well."""
    tree.cpu(user=5000 + second * HZ // 5, system=3000, steal=40)
    tree.process(SERVER, ticks=500 + second * HZ // 5)


def hogged(tree: Tree, second: int) -> None:
    """Beside it a stranger has half a CPU, and the pressure tells of it."""
    tree.cpu(user=5000 + second * (HZ // 5 + HZ // 2), system=3000, steal=40)
    tree.process(SERVER, ticks=500 + second * HZ // 5)
    tree.process(STRANGER, ticks=500 + second * HZ // 2)
    tree.pressure(7_000_000 + second * 300_000)


def robbed(tree: Tree, second: int) -> None:
    quiet(tree, second)
    tree.cpu(user=5000 + second * HZ // 5, system=3000, steal=40 + second * HZ // 10)


def slowed(tree: Tree, second: int) -> None:
    quiet(tree, second)
    tree.frequency(3_000_000 - second * 60_000, 3_000_000 - second * 50_000)


def heated(tree: Tree, second: int) -> None:
    quiet(tree, second)
    tree.throttles(core=3, package=4 + second // 4)


def held_back(tree: Tree, second: int) -> None:
    quiet(tree, second)
    tree.quota(throttled_us=250_000 + second * 40_000)


def observed(tree: Tree, happening: Second) -> schema.Machine:
    """`machine` of a run over that tree, read once a second: half a second before the window to half after it."""
    happening(tree, 0)
    machine = tree.machine()
    machine.watch("server", [SERVER])
    rows: list[tuple[str, str, str, float, float]] = []
    for second in range(SECONDS + 1):
        happening(tree, second)
        rows += [("machine", name, labels, float(second), value) for (name, labels), value in machine.read().items()]
    columns = dict(zip(("source", "name", "labels", "time", "value"), map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table({name: pa.array(columns[name]).cast(rundir.SAMPLES.field(name).type) for name in columns})
    found = analysis.state(table, Window.of(0, SECONDS), requests=1000)
    assert found is not None
    return found


def told(found: schema.Machine) -> dict[str, str]:
    """The messages of the machine's reasons that hold, by code."""
    run = run_summary(machine=found, window={"duration_s": SECONDS})
    judged = [reason for reason in REASONS if reason.code in OF_THE_MACHINE]
    held = [(reason, fields) for reason in judged if (fields := reason.fields(run)) is not None]
    return {reason.code: reason.message.format(**fields) for reason, fields in held}


def test_a_quiet_machine_raises_nothing(tree: Tree) -> None:
    found = observed(tree, quiet)
    assert told(found) == {}
    assert found.other and found.steal
    assert found.other.mean == pytest.approx(0, abs=0.01) == found.steal.mean
    assert (found.thermal_throttles, found.quota_throttled_s, found.pressure_percent) == (0, 0, 0)


@pytest.mark.parametrize(
    ("happening", "code", "words"),
    [
        (
            hogged,
            "other_load",
            "for 30 % of the time something waited for a CPU.",
        ),
        (robbed, "cpu_stolen", "took 5.0 % of its CPU time"),
        (slowed, "cpu_speed_changed", "frequency changed by -2"),
        (heated, "cpu_speed_changed", "The processor throttled itself 3 times for heat"),
        (held_back, "cpu_speed_changed", "A CPU quota (cgroup) held processes of the run back for 0.48 s"),
    ],
)
def test_what_the_kernel_shows_of_a_disturbance_is_its_reason_alone(
    tree: Tree, happening: Second, code: str, words: str
) -> None:
    (reason,) = told(observed(tree, happening)).items()
    assert reason[0] == code and words in reason[1]


def test_the_strangers_share_is_what_is_busy_less_the_runs_own(tree: Tree) -> None:
    other = observed(tree, hogged).other
    assert other and other.mean == pytest.approx(25)


def test_the_controller_is_watched_from_the_beginning() -> None:
    """On the real machine: this process works, and that is its own and no other load."""
    machine = Machine()
    before = read(machine)
    sum(number * number for number in range(2_000_000))
    after = read(machine)
    name = f"process_cpu_seconds_total {CONTROLLER}"
    assert after[name] > before[name]
    assert after["machine_own_seconds_total"] - before["machine_own_seconds_total"] == after[name] - before[name]
