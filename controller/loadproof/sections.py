"""The plan's sections about a whole campaign: limits, what differs between its runs, and what is looked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadproof_clients.spec import Section

Table = dict[str, Any]
RUNS_MAX: Final = 10_000
SWEPT: Final = ("server", "load", "measure", "slo")


class Slo(Section):
    """Limits that every run has to keep; one that is broken fails the campaign."""

    p50_ms: float | None = Field(None, gt=0)
    p90_ms: float | None = Field(None, gt=0)
    p95_ms: float | None = Field(None, gt=0)
    p99_ms: float | None = Field(None, gt=0)
    p99_9_ms: float | None = Field(None, gt=0)
    mean_ms: float | None = Field(None, gt=0)
    max_ms: float | None = Field(None, gt=0)
    error_rate: float | None = Field(None, ge=0, le=1, description="at most")
    throughput_rps: float | None = Field(None, gt=0, description="at least")


class Sweep(BaseModel):
    """What differs between the runs: `"section.key" = [values]`, of which every combination is a point, or `points`.

    With both, every point is combined with every combination. Each repeat is a block that has every point once.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)  # the extra ones are the keys that are swept

    points: list[Table] = Field(default_factory=list, max_length=RUNS_MAX, description='{"section.key" = value} each')
    order: Literal["random", "listed"] = Field(
        "random", description="of each block's runs; random: a drift of the machine does not fall on one point"
    )
    seed: int = Field(1, ge=0, lt=2**32, description="of the random order")

    @model_validator(mode="after")
    def _keys_have_values(self) -> Sweep:
        for key in self.listed_keys():
            if not (key.partition(".")[0] in SWEPT and "." in key):
                raise ValueError(f'{key}: allowed: points, order, seed, and "section.key" of {", ".join(SWEPT)}')
        for key, values in (self.model_extra or {}).items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"{key}: found {values!r}; allowed: at least one value, in a list")
        return self

    def keys(self) -> list[str]:
        """The keys of the grid."""
        return list(self.model_extra or {})

    def listed_keys(self) -> list[str]:
        """Every key that differs between points."""
        return list(dict.fromkeys([*self.keys(), *(key for point in self.points for key in point)]))

    def size(self) -> int:
        """How many points there are."""
        return math.prod(len(values) for values in (self.model_extra or {}).values()) * max(1, len(self.points))

    def listed(self) -> Iterator[Table]:
        """Every point, in the order of the file."""
        grid = self.model_extra or {}
        for point in self.points or [{}]:
            for values in itertools.product(*grid.values()):
                yield {**point, **dict(zip(grid, values, strict=True))}


class Search(Section):
    """The highest open-loop rate, or number of closed-loop clients, that keeps every limit of `[slo]`."""

    key: Literal["load.rate_rps", "load.clients"]
    low: float = Field(gt=0, le=1_000_000, description="the first level; doubled while the limits are kept")
    high: float | None = Field(None, gt=0, le=1_000_000, description="no level is over it")
    tolerance: float = Field(0.03, ge=0.001, le=1, description="the bracket's width, as a share, at which it ends")
    tries: int = Field(3, ge=1, le=20, description="runs of a level near the edge, before its share alone decides")

    @model_validator(mode="after")
    def _levels_are_ordered_and_whole(self) -> Search:
        if self.high is not None and self.high < self.low:
            raise ValueError(f"search.high = {self.high:g} is under search.low = {self.low:g}")
        if self.key == "load.clients" and any(value % 1 for value in (self.low, self.high or 1)):
            raise ValueError("search.low and search.high: allowed: whole numbers of clients")
        return self


class Tune(Section):
    """The most throughput under a latency limit of `[slo]`: each setting with the values that it may take, in order."""

    streams: list[Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=list)
    batch: list[Annotated[int, Field(ge=1, le=4096)]] = Field(default_factory=list)
    nireq: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(default_factory=list)
    threads: list[Annotated[int, Field(ge=1, le=4096)]] = Field(default_factory=list)
    precision: list[Literal["f32", "bf16", "f16"]] = Field(default_factory=list)
    runs_max: int = Field(24, ge=2, le=1000, description="it ends then, if not before")
    tries: int = Field(2, ge=1, le=20, description="runs of the best, and of what is near it, before it is believed")
    tolerance: float = Field(0.05, ge=0, le=1, description="what is better by a lesser share is not taken for better")

    @model_validator(mode="after")
    def _there_is_something_to_choose(self) -> Tune:
        axes = {name: values for name, values in self.model_dump().items() if isinstance(values, list)}
        if math.prod(max(1, len(values)) for values in axes.values()) < 2:
            raise ValueError(f"give two values or more of at least one of {', '.join(axes)}, as in streams = [1, 2, 4]")
        if twice := [name for name, values in axes.items() if len(set(values)) < len(values)]:
            raise ValueError(f"{twice[0]}: a value stands there twice")
        if self.runs_max < 2 * self.tries:
            raise ValueError(f"runs_max = {self.runs_max} is under two configurations of tries = {self.tries} runs")
        return self

    def axes(self) -> dict[str, list[Any]]:
        """`section.key` and its values, of what is to be chosen."""
        places = {"batch": "load.batch"}
        lists = {name: values for name, values in self if isinstance(values, list) and values}
        return {places.get(name, f"server.{name}"): values for name, values in lists.items()}

    def middle(self) -> Table:
        """Where it begins: the middle of each list."""
        return {key: values[(len(values) - 1) // 2] for key, values in self.axes().items()}


class SweetSpot(Section):
    """The latency that the best configuration has to keep, and others may break; without it a limit of `[slo]` is."""

    p50_ms: float | None = Field(None, gt=0)
    p90_ms: float | None = Field(None, gt=0)
    p95_ms: float | None = Field(None, gt=0)
    p99_ms: float | None = Field(None, gt=0)
    p99_9_ms: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _there_is_one_limit(self) -> SweetSpot:
        given = self.model_dump(exclude_none=True)
        if len(given) > 1:
            raise ValueError(f"give one limit; found {', '.join(given)}")
        return self


class Cost(Section):
    """What the system costs: by the hour, or its price and how long it is used."""

    currency: str = Field(min_length=1, max_length=8, description="as it is to be shown: EUR, $")
    per_hour: float | None = Field(None, gt=0, allow_inf_nan=False)
    price: float | None = Field(None, gt=0, allow_inf_nan=False, description="of the whole system")
    lifetime_years: float | None = Field(None, gt=0, le=100, description="over which the price is spread")

    @model_validator(mode="after")
    def _it_is_told_in_one_way(self) -> Cost:
        bought = (self.price is not None, self.lifetime_years is not None)
        if bought not in ((True, True), (False, False)) or all(bought) == (self.per_hour is not None):
            raise ValueError("give per_hour, or price and lifetime_years")
        return self


class Power(Section):
    """Where the power of the system comes from: the kernel's RAPL counters, the site's meter, or a stated constant."""

    source: Literal["rapl", "prometheus", "constant"]
    idle_s: float = Field(3, ge=0, le=600, description="idle power is measured so long before each run; 0: not at all")
    watts: float | None = Field(None, gt=0, allow_inf_nan=False, description="constant: what it is stated to take")
    url: str | None = Field(None, pattern=r"^https?://\S+$", description="prometheus: its address")
    query: str | None = Field(None, min_length=1, description="prometheus: gives watts; several series are added up")
    root: str = Field("/sys/class/powercap", min_length=1, description="rapl: where the kernel shows its counters")

    @model_validator(mode="after")
    def _the_source_has_its_keys(self) -> Power:
        needed = {"rapl": (), "prometheus": ("url", "query"), "constant": ("watts",)}
        for source, keys in needed.items():
            for key in keys:
                if (source == self.source) != (getattr(self, key) is not None):
                    raise ValueError(f'power.{key} goes with source = "{source}"')
        return self
