"""What the controller itself sees of a run while it goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum, auto
from pathlib import Path
from typing import Any

from loadproof import rundir
from loadproof.collect.early import EarlyFailure
from loadproof.collect.machine import Machine
from loadproof.collect.power import PowerMeter
from loadproof.collect.scrape import Scraper
from loadproof.errors import LoadproofError
from loadproof.launch.balancer import Balancer
from loadproof.launch.target import Target
from loadproof.models import Model
from loadproof.plan import Run


class Stage(IntEnum):
    """Where a run is; they follow each other in this order, and an error may end the run in any of them."""

    LAUNCHING = auto()  # server and balancer are started or found
    PREPARING = auto()  # payloads and references are made
    ARMING = auto()  # workers come, get their payloads and connect
    LOADING = auto()  # T0 is known
    RECONCILING = auto()  # the load has ended; counters and logs are read until they stand still
    COLLECTING = auto()  # everything has been stopped; the run directory is written


@dataclass(frozen=True)
class T0:
    """The moment from which the run's times count, by two clocks of the controller's machine."""

    monotonic_ns: int
    epoch_us: int


@dataclass
class ServerObserved:
    """The server and what it says of itself; `served` is what it says of its model, before and after the load."""

    target: Target
    about: dict[str, str] | None = None
    served: list[dict[str, Any] | None] = field(default_factory=list)


@dataclass
class Observations:
    """Everything that `gather` writes; what the run did not come to, or does not have, is None."""

    run: Run
    run_id: str
    directory: Path
    model: Model | None
    stage: Stage = Stage.LAUNCHING
    t0: T0 | None = None  # from Stage.LOADING on
    server: ServerObserved | None = None
    balancer: Balancer | None = None
    machine: Machine = field(default_factory=Machine)
    scraper: Scraper | None = None
    power_meter: PowerMeter | None = None
    early_failure: EarlyFailure | None = None  # of a search
    ceiling: dict[str, Any] | None = None
    references: dict[str, str | None] = field(default_factory=lambda: {"source": None, "error": None})
    planned: int | None = None  # requests in the plan of an open loop
    events: list[dict[str, Any]] = field(default_factory=list)
    load_error: str = ""

    @property
    def logs(self) -> Path:
        return rundir.logs(self.directory)

    @property
    def campaign(self) -> str:
        """The name of the campaign's directory."""
        return self.directory.parents[1].resolve().name

    @property
    def work(self) -> Path:
        """Where the programs of the run leave their files; removed once they are collected."""
        return self.directory / "work"

    @property
    def elapsed_s(self) -> float | None:
        """Seconds since T0; None before there is one."""
        return None if self.t0 is None else (time.monotonic_ns() - self.t0.monotonic_ns) / 1e9

    def event(self, code: str, message: str) -> None:
        """Something that the verdict has to know; the codes are those of loadproof/analyse/checks."""
        self.events.append({"time_s": self.elapsed_s, "code": code, "message": message})

    def interrupt(self, error: BaseException) -> None:
        """The run did not come to its end, because of `error`."""
        if isinstance(error, KeyboardInterrupt):
            self.event("interrupted", "the user stopped it")
            return
        said = (str(error).splitlines() or [""])[0]
        self.event("interrupted", said if isinstance(error, LoadproofError) else f"{type(error).__name__}: {said}")

    @property
    def end(self) -> dict[str, Any]:
        """Whether the run came to its end, and how it ended."""
        why = [event["message"] for event in self.events if event["code"] == "interrupted"]
        if why:
            return {"finished": False, "reason": "; ".join(why)}
        return {"finished": True, "reason": "; ".join(e["message"] for e in self.events) or "it came to its end"}

    def has(self, code: str) -> bool:
        """True when such an event was seen."""
        return any(event["code"] == code for event in self.events)
