"""Open loops in which requests are cut, refused and killed: afterwards every one of them has to have a name."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from tests.truth.session import Outcome, TruthServer, finish, start_loadproof, truth_server

WARMUP_S: Final = 0.5
REFERENCES: Final = 32 + 64  # and the audit's
WRONG: Final = ("wrong", "short")
NO_NAME: Final = ("unaccounted", "not in the log", "not ours")
# Names that need a death; nobody else's loss may hide behind them. The load ends with the balancer; what a dead worker
# had still to send, nobody sends.
DEATHS: Final = {
    "lost with a worker": ("loadproof_clients.load.worker",),
    "lost with the balancer": ("haproxy",),
    "not sent: the run ended early": ("loadproof_clients.load.worker", "haproxy"),
}
# The client's own word, or HAProxy's for a client that left.
TIMED_OUT: Final = ("failed: timeout", "cut: C")


@dataclass(frozen=True)
class Loss:
    """What goes wrong in the middle: flags of the server, more of the load, and whose process is killed."""

    name: str
    flags: tuple[str, ...] = ()
    load: tuple[tuple[str, Any], ...] = ()
    victim: str | None = None  # "server", or a part of a command line
    names: tuple[str, ...] = ()  # how the names of all that was not answered right begin; (): anyhow

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


LOSSES: Final = (
    Loss("lies", ("--share", "0.2", "--lies", "error", "drop", "wrong", "cut", "garbage", "short")),
    Loss("timeouts", ("--share", "0.05", "--lies", "stall", "--stall-s", "30"), (("timeout_s", 0.5),), names=TIMED_OUT),
    Loss("server killed", victim="server"),
    Loss("balancer killed", victim="haproxy"),
    Loss("worker killed", victim="loadproof_clients.load.worker"),
)


@dataclass(frozen=True)
class Aftermath:
    """A finished run, and what the server's log says of it."""

    loss: Loss
    outcome: Outcome
    planned: int
    visits: list[dict[str, Any]]

    @property
    def accounts(self) -> dict[str, int]:
        return {account["name"]: account["count"] for account in self.outcome.run["accounts"]}

    def problems(self) -> list[str]:
        """What is left without a name, or has a name that the server's log contradicts."""
        run, accounts, found = self.outcome.run, self.accounts, []
        if self.outcome.code != 4 or run["verdict"] != "INVALID":
            found.append(f"exit {self.outcome.code}, {run['verdict']}")
        if run["requests"]["unaccounted"] or any(name.partition(":")[0] in NO_NAME for name in accounts):
            found.append(f"without a name: {accounts}")
        found += [
            f"{name}: {accounts[name]}"
            for name, dead in DEATHS.items()
            if name in accounts and self.loss.victim not in dead
        ]
        others = [name for name in accounts if name != "answered right" and not name.startswith(self.loss.names)]
        if self.loss.names and others:
            found.append(f"a wrong name: {others}")
        total = sum(accounts.values())
        if total != self.planned + REFERENCES:
            found.append(f"{total} accounted for, {self.planned + REFERENCES} planned")
        return [*found, *self._contradictions()]

    def _contradictions(self) -> list[str]:
        rows = self.outcome.requests().select(["id", "status", "verified", "correct"]).to_pylist()
        told = {visit["id"]: visit for visit in self.visits}
        bad = []
        for row in rows:
            visit = told.get(row["id"], {"did": "never came", "left_ns": None})
            wrong = row["verified"] and not row["correct"]
            if row["status"] == "ok" and not (visit["left_ns"] and visit["did"] in (WRONG if wrong else ("ok",))):
                bad.append(f"{row['id']}: {'wrong' if wrong else 'right'} for the client; the server: {visit['did']}")
        return bad[:5]


def lose(loss: Loss, protocol: str, place: Path, rate_rps: float, duration_s: float) -> Aftermath:
    """Runs it; the victim dies in the middle of the window."""
    log = place / f"{loss.name} {protocol}.jsonl"
    load = {"protocol": protocol, "clients": 8, "arrivals": "constant", "rate_rps": rate_rps, "processes": 2}
    measure = {"warmup_s": WARMUP_S, "duration_s": duration_s, "drain_s": 2}
    with truth_server(log, "--log-first", "--delay-ms", "5", *loss.flags) as server:
        out = place / f"{loss.name} {protocol}".replace(" ", "-")
        process = start_loadproof(server, out, load | dict(loss.load), measure)
        if loss.victim:
            _kill(loss.victim, server, process, duration_s / 2)
        outcome = finish(process, out)
        return Aftermath(loss, outcome, round(rate_rps * (WARMUP_S + duration_s)), server.visits())


def _kill(victim: str, server: TruthServer, process: subprocess.Popen[str], after_s: float) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if "measuring" in line:
            break
    time.sleep(after_s)
    if victim == "server":
        server.process.kill()
        return
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(next(child.pid for child in children if victim in " ".join(child.cmdline())), signal.SIGKILL)
