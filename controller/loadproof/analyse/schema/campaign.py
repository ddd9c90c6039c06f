"""summary.json as a whole: the campaign, its runs, and what they answer together."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from loadproof.analyse.schema.part import Copied, Part, Table
from loadproof.analyse.schema.resources import Calibration
from loadproof.analyse.schema.run import RunSummary

Setting = bool | int | float | str | None  # a value of the plan


class Campaign(Copied):
    """What was run where, of campaign.json."""

    name: str
    created: str = Field(description="UTC")
    loadproof: str | None = Field(description="the version that measured")
    plan_sha256: str
    environment: Table = Field(default_factory=dict, description="hardware, kernel, versions")
    calibration: Calibration | None = None
    stack: Table | None = Field(None, description="where server, balancer and workers were started by compose.yaml")
    interrupted: bool
    runs_planned: int
    runs_missing: int = Field(description="planned and not begun")


class Repeats(Part):
    """Runs of one spec, and [min, median, max] of each metric that all of them have."""

    runs: list[str]
    metrics: dict[str, tuple[float, float, float]]


class Level(Part):
    """What the runs at one value of a search say together."""

    value: float
    holds: bool | None = Field(description="whether the limits are kept; null: it takes another run to decide")
    why: str
    runs: list[str]
    seconds: float = Field(description="of load")
    doubts: list[str] = Field(
        default_factory=list, description="codes of reasons that blame something else than the server"
    )


class SearchAnswer(Part):
    """The highest load that keeps the limits."""

    key: str
    limits: dict[str, float]
    highest: float | None = Field(description="the highest value that holds")
    fails_at: float | None = Field(description="the lowest value above it that does not")
    ended: bool
    seconds: float = Field(description="of load")
    levels: list[Level]


class Finalist(Part):
    """A configuration near the best, with the least and the most inferences a second of its runs."""

    name: str
    runs: int
    low_ips: float
    high_ips: float


class TuneAnswer(Part):
    """How a tuning went; the best configuration itself is in `sweet_spot`."""

    axes: dict[str, list[Any]] = Field(description="the values that each setting could take")
    combinations: int
    measured: int
    runs: int
    ended: bool
    untried: int = Field(description="steps from the best that were not measured, for want of runs")
    tolerance: float
    finalists: list[Finalist]
    seconds: float = Field(description="of load")


class Configuration(Part):
    """Runs of one spec among others: the median counts, and the highest bound."""

    name: str
    runs: list[str]
    settings: dict[str, Setting] = Field(description="what is not the same in all configurations")
    throughput_ips: float | None
    latency_ms: float | None
    latency_high_ms: float | None = Field(description="the upper 99 % bound")
    eligible: bool = Field(description="no run is INVALID, and every other limit is kept")
    front: bool = Field(False, description="on the Pareto front")


class SweetSpot(Part):
    """The configuration with the most throughput whose latency surely keeps the limit."""

    metric: str
    limit: float | None
    best: str | None
    configurations: list[Configuration]


class Summary(Part):
    """summary.json."""

    format: int = Field(alias="schema", description="of this file")
    campaign: Campaign
    runs: list[RunSummary]
    repeats: list[Repeats] = Field(default_factory=list)
    search: SearchAnswer | None = None
    tune: TuneAnswer | None = None
    sweet_spot: SweetSpot | None = None
