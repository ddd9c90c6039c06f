"""The form of campaign.json and run.json: what has to be there, of which type, before anything is computed from it.

Only what would otherwise fail far from its cause, or take unbounded time, stands here; every other key passes. A file
of an earlier version lacks what came later, so most keys have a default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from loadproof_clients.spec import Measure

Table = dict[str, Any]
DAY_S: Final = 86_400
YEAR_9999_US: Final = 253_402_300_799_000_000
INT64_MAX: Final = 2**63 - 1


class Fact(BaseModel):
    """Typed as the file has it: nothing is converted, so what is used is what was checked."""

    model_config = ConfigDict(extra="allow", strict=True)


class Spec(Fact):
    """The resolved sections of a run."""

    server: Table = Field(default_factory=dict)
    load: Table = Field(default_factory=dict)
    measure: Table = Field(default_factory=dict)
    slo: Table = Field(default_factory=dict)

    @field_validator("measure")
    @classmethod
    def _its_seconds_are_bounded(cls, measure: Table) -> Table:
        if measure:
            Measure.model_validate(measure)
        return measure


class Seen(Fact):
    """What the controller saw happen."""

    time_s: float | None = None
    code: str
    message: str


class End(Fact):
    """How the run ended. It is written last: a run without one did not end."""

    finished: bool
    reason: str


class CutShort(Fact):
    """Where a search ended the run's window on purpose."""

    at_s: Annotated[float, Field(ge=0, le=DAY_S)]


class RunFacts(Fact):
    """run.json."""

    name: str = ""
    spec: Spec | None = None
    repeat: int = 1
    t0_epoch_us: Annotated[int, Field(ge=0, le=YEAR_9999_US)] | None = None
    t0_monotonic_ns: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None
    planned: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None
    model: Table | None = None
    references: Table = Field(default_factory=dict)
    workers: list[Table] = Field(default_factory=list)
    events: list[Seen] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    server: Table = Field(default_factory=dict)
    balancer: Table | None = None
    ceiling: Table | None = None
    cut_short: CutShort | None = None
    power: Table | None = None
    log: Table | None = None
    end: End | None = None


class PlannedRun(Fact):
    """A run of the campaign; its directory lies in the campaign's."""

    name: str
    directory: str = Field(pattern=r"^runs/[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    repeat: int = 1
    point: int = 1
    spec: Spec = Field(default_factory=Spec)


class CampaignFacts(Fact):
    """campaign.json."""

    name: str
    created: str
    plan: Table = Field(default_factory=dict)
    runs: list[PlannedRun]
    interrupted: bool

    @field_validator("created")
    @classmethod
    def _it_is_a_time(cls, created: str) -> str:
        datetime.fromisoformat(created)
        return created


_KINDS: Final[dict[str, type[Fact]]] = {"run.json": RunFacts, "campaign.json": CampaignFacts}


def mistake(name: str, content: Table) -> str | None:
    """The first thing that is wrong with the content of the file `name`, and where; None: nothing is known to be."""
    if name not in _KINDS:
        return None
    try:
        _KINDS[name].model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None
