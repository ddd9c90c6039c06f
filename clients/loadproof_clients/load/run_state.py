"""Where a run of the load is, as the master knows it: its stage, its workers, T0, and what went wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum, auto

from loadproof_clients.load.fleet import Node
from loadproof_clients.spec import LoadSpec


class Stage(IntEnum):
    """How far a run has come; a run that fails stays in the stage where it failed."""

    GATHERING = auto()  # workers come
    LOADING = auto()  # they take spec and payloads
    CONNECTING = auto()  # Locust starts the clients, and they connect
    STARTING = auto()  # clocks are read, and each worker gets T0
    RUNNING = auto()  # every worker has T0; some have not delivered all their records
    DELIVERED = auto()  # every worker has delivered all its records, or is lost


class Phase(StrEnum):
    """What the clients do, for those who watch."""

    ARMING = "arming"
    WARMUP = "warmup"
    MEASURE = "measure"
    DRAIN = "drain"


@dataclass
class RunState:
    """`t0_ns` (monotonic) and `t0_epoch_us` are 0 before Stage.RUNNING; `nodes` are by Locust's name of the worker."""

    spec: LoadSpec
    stage: Stage = Stage.GATHERING
    nodes: dict[str, Node] = field(default_factory=dict)
    t0_ns: int = 0
    t0_epoch_us: int = 0
    stopping: bool = False  # it was told to end early
    trouble: str = ""  # what ends the run; the first one counts
    refusals: list[str] = field(default_factory=list)  # workers that no run of this master takes
    left: list[str] = field(default_factory=list)  # workers that ended before they should have, and delivered

    @property
    def has_started(self) -> bool:
        """Whether requests may have been sent."""
        return self.stage >= Stage.RUNNING

    def fail(self, trouble: str) -> None:
        """Notes what ends the run."""
        self.trouble = self.trouble or trouble

    def elapsed_s(self) -> float:
        """Seconds since T0, which has to be known."""
        assert self.has_started
        return (time.monotonic_ns() - self.t0_ns) / 1e9

    def phase(self) -> Phase:
        """What the clients do now."""
        if not self.has_started or (elapsed_s := self.elapsed_s()) < 0:
            return Phase.ARMING
        measure = self.spec.measure
        past_s = elapsed_s - measure.warmup_s
        if past_s < 0:
            return Phase.WARMUP
        return Phase.MEASURE if past_s < measure.duration_s and not self.stopping else Phase.DRAIN
