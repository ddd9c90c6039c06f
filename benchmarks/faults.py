"""Every fault of a run ends: with a verdict and its reason, with what was measured saved, and nothing left running.

    python -m benchmarks.faults [--only NAME...] [--at-once N] [--list] [--out FILE.json]

A campaign of one run (the shipped server, HAProxy, a closed loop of two workers) is started again and again, and a
fault strikes it while it measures, or at the stage that the fault is about:

- each of worker, master, server, balancer, collector (of HAProxy's log) and controller is killed (SIGKILL);
- each of them is stopped for 3 s (SIGSTOP, SIGCONT): here only the end, the files and the processes count;
- the disk is full from the middle on (a small tmpfs; without the right to mount one, a limit to the size of files);
- the network to the server is cut (a relay that passes nothing on any more);
- Ctrl-C comes at ten moments, from the imports to the collecting;
- the terminal is closed (SIGHUP, by the kernel);
- the wall clock of the controller is stepped by an hour (libfaketime; where it is not installed, that is told);
- and three that are no part of that list: the program that makes the payloads is killed, all processes are frozen for
  3 s together as by a suspended machine, and too few files may be open.

A row says what the command ended with, how long after the fault, what was saved, how many processes were left, and
what `--resume` did afterwards. It holds where all of it is as its row in FAULTS says. About 15 minutes one by one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import proof
from benchmarks.fault_trial import (
    DURATION_S,
    FAKETIME,
    Trial,
    descriptors,
    faked,
    full_disk,
    get_model,
    hung_up,
    network,
    resume_after,
)

PARTIES: Final = {
    "worker": "loadproof_clients.load.worker",
    "master": "loadproof_clients.load.master",
    "server": "loadproof_server.main",
    "balancer": "haproxy",
    "collector": "log_collector",
}
STOPPED_S: Final = 3.0
END_S: Final = 100  # from the fault to the end: the longest wait for records is 90 s
MOMENTS: Final = (
    *("imports", "starting the server", "starting the balancer", "preparing", "arming", "warming up", "measuring"),
    *("draining", "reconciling", "collecting"),
)
INTERRUPTED: Final = frozenset({130})
ENDED: Final = frozenset({0, 4})  # the run came to its end, whatever its verdict
Strike = Callable[[Trial], None]


@dataclass(frozen=True)
class Fault:
    """What strikes, and what has to come of it."""

    name: str
    strike: Strike
    codes: frozenset[int]  # exit codes of which one it has to be
    reasons: frozenset[str] = frozenset()  # of which one is among the run's; none: any will do
    resumed: str = "nothing is left to do"  # or "measured again", or "no directory"


def killed(party: str) -> Strike:
    def strike(trial: Trial) -> None:
        trial.wait_for("measuring", then_s=1)
        trial.find(PARTIES.get(party)).kill()

    return strike


def stopped(party: str) -> Strike:
    def strike(trial: Trial) -> None:
        trial.wait_for("measuring", then_s=0.5)
        victim = trial.find(PARTIES.get(party))
        victim.suspend()
        time.sleep(STOPPED_S)
        victim.resume()

    return strike


def frozen(trial: Trial) -> None:
    trial.wait_for("measuring", then_s=0.5)
    victims = trial.family()
    for victim in victims:
        victim.suspend()
    time.sleep(STOPPED_S)
    for victim in victims:
        victim.resume()


def ctrl_c(moment: str) -> Strike:
    def strike(trial: Trial) -> None:
        if moment == "imports":
            trial.start()
            time.sleep(0.3)  # Python itself has begun by then
        elif moment == "draining":  # too short to be told where nothing is late
            trial.wait_for("measuring", then_s=DURATION_S)
        else:
            trial.wait_for(moment)
        trial.interrupt()

    return strike


def maker_killed(trial: Trial) -> None:
    trial.find("loadproof_clients.prepare", wait_s=60).kill()


DEATHS: Final = {
    **{"worker": {"worker_died"}, "master": {"worker_died"}, "server": {"server_died"}},
    **{"balancer": {"balancer_died"}, "collector": {"witnesses_disagree", "log_lines_dropped", "unaccounted_requests"}},
}
FAULTS: Final = (
    *(Fault(f"{party} killed", killed(party), frozenset({4}), frozenset(reasons)) for party, reasons in DEATHS.items()),
    Fault("controller killed", killed("controller"), frozenset({-9}), resumed="measured again"),
    *(Fault(f"{party} stopped", stopped(party), ENDED) for party in (*PARTIES, "controller")),
    Fault("disk full", full_disk, frozenset({1}), resumed="measured again"),
    Fault("network cut", network, frozenset({4}), frozenset({"failed_answers"})),
    *(
        Fault(f"Ctrl-C: {moment}", ctrl_c(moment), INTERRUPTED, frozenset({"interrupted"}), "measured again")
        for moment in MOMENTS[1:]
    ),
    Fault("Ctrl-C: imports", ctrl_c("imports"), INTERRUPTED, resumed="no directory"),
    Fault("terminal closed", hung_up, INTERRUPTED, frozenset({"interrupted"}), "measured again"),
    Fault("clock stepped", faked, frozenset({0}), frozenset({"clock_stepped"})),
    Fault("payload maker killed", maker_killed, frozenset({1}), frozenset({"interrupted"}), "measured again"),
    Fault("all frozen", frozen, ENDED),
    Fault("too few descriptors", descriptors, frozenset({1, 4}), resumed="any"),
)


def judge(fault: Fault, row: dict[str, Any]) -> list[str]:
    """What is not as it has to be."""
    wrong = []
    if row["exit"] not in fault.codes:
        wrong.append(f"exit {row['exit']}: {row['said']}")
    if fault.reasons and not fault.reasons & set(row["reasons"]):
        wrong.append(f"reasons {row['reasons']}")
    if row["ended_s"] > END_S:
        wrong.append(f"it took {row['ended_s']:.0f} s to end")
    if row["left"]:
        wrong.append(f"left running: {row['left']}")
    if row["traceback"]:
        wrong.append("a traceback")
    # a killed controller writes nothing more, and a full disk takes nothing more
    if fault.resumed != "no directory" and fault.codes != {-9} and fault.name != "disk full" and not row["saved"]:
        wrong.append("nothing was saved")
    if fault.resumed != "any" and row["resumed"] != fault.resumed:
        wrong.append(f"--resume: {row['resumed']}, not {fault.resumed}")
    return wrong


def tried(fault: Fault, below: Path) -> dict[str, Any]:
    """Its row; in a directory of its own, with the models that all share."""
    place = Path(tempfile.mkdtemp(dir=below))
    with Trial(fault.name, place, below / "models") as trial:
        try:
            fault.strike(trial)
        except (RuntimeError, psutil.Error) as error:  # the fault could not be brought about
            return {**trial.ended(), "resumed": "-", "wrong": [str(error)]}
        row = trial.ended()
        row["resumed"] = resume_after(trial)
    row["wrong"] = judge(fault, row)
    print(json.dumps(shown(row) | {"wrong": row["wrong"]}), file=sys.stderr, flush=True)
    return row


def shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "fault": row["fault"],
        "exit": row["exit"],
        "verdict": row["verdict"] or "-",
        "reasons": ", ".join(row["reasons"]) or "-",
        "s to the end": f"{row['ended_s']:.1f}",
        "saved": ", ".join(row["saved"]) or "-",
        "left": len(row["left"]),
        "--resume": row["resumed"],
        "holds": "NO" if row["wrong"] else "yes",
    }


def main() -> int:
    parser = proof.options("faults", __doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="faults whose name begins so")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="so many campaigns beside each other")
    parser.add_argument("--list", action="store_true", help="their names, and nothing else")
    chosen = parser.parse_args()
    faults = [one for one in FAULTS if not chosen.only or one.name.startswith(tuple(chosen.only))]
    if chosen.list:
        print("\n".join(one.name for one in faults))
        return 0
    began_s, machine = time.monotonic(), proof.machine()
    left_out = [f"{one.name}: libfaketime is not installed" for one in faults if one.strike is faked and not FAKETIME]
    faults = [one for one in faults if not (one.strike is faked and not FAKETIME)]
    with (
        tempfile.TemporaryDirectory(prefix="loadproof-faults-") as name,
        ThreadPoolExecutor(chosen.at_once) as pool,
    ):
        get_model(Path(name) / "models")
        rows = list(pool.map(lambda fault: tried(fault, Path(name)), faults))
    proof.show([shown(row) for row in rows])
    for row in rows:
        for text in row["wrong"]:
            print(f"{row['fault']}: {text}")
    print("\n".join(left_out))
    holds = not any(row["wrong"] for row in rows)
    print(f"faults: {'hold' if holds else 'DO NOT HOLD'} ({time.monotonic() - began_s:.0f} s)")
    proof.write(chosen.out, "faults", machine, holds=holds, left_out=left_out, rows=rows)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
