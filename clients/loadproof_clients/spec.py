"""The load specification: the plan's `[load]` and `[measure]`, and what the load generator gets of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from loadproof_clients.apis import APIS

REQUESTS_MAX: Final = 50_000_000  # of an open-loop run; their records are 2.3 GB

TRANSPORTS: Final = sorted({one for api in APIS.values() for way in api.carriers.values() for one in way.transports})

Protocol = Literal["grpc", "rest"]
Positive = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Range = Annotated[tuple[Finite, Finite], Strict(False)]  # TOML has no tuples
Step = Annotated[tuple[Annotated[float, Field(ge=0, le=1_000_000)], Annotated[float, Field(gt=0)]], Strict(False)]
Shape = Annotated[list[Positive], Field(min_length=0, max_length=16)]


class Section(BaseModel):
    """A table of the plan: unknown keys are mistakes, and a checked plan does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Load(Section):
    """What is offered to the server, and how."""

    api: str = Field("kserve", description=f"{' | '.join(APIS)}: what the server is asked in")
    protocol: Protocol = Field("grpc", description="unset: the API's default")
    transport: str = Field("tritonclient", description=f"{' | '.join(TRANSPORTS)}; unset: the default of both")
    via: Literal["balancer", "direct"] = "balancer"
    arrivals: Literal["closed", "constant", "poisson", "steps", "trace"] = "closed"
    rate_rps: float | None = Field(None, gt=0, le=1_000_000, description="constant and poisson: requests per second")
    steps: list[Step] = Field(default_factory=list, max_length=1000, description="steps: [rate_rps, duration_s] each")
    trace: str | None = Field(None, min_length=1, description="trace: file of seconds from T0, one a line, ascending")
    max_in_flight: int = Field(10_000, ge=1, le=60_000, description="open loop: a due request beyond it is not sent")
    clients: int = Field(
        4, ge=1, le=10_000, description="closed: each waits for its answer; open: connections to spread over"
    )
    processes: int = Field(1, ge=1, le=256, description="worker processes in all; at most one for each client")
    expect_workers: int = Field(0, ge=0, le=256, description="how many of the processes join by `loadproof worker`")
    batch: Annotated[int, Field(ge=1, le=4096)] | Literal["none"] = Field(
        1, description="inferences in a request: the first size of every input; none: no size of the model is a batch"
    )
    payload: str = Field("random", description="random | images | images:DIR | npy:FILE")
    payloads: int = Field(32, ge=1, le=32, description="distinct inputs")
    shapes: dict[str, Shape] = Field(default_factory=dict, description="per input, for dynamic shapes; batch included")
    ranges: dict[str, Range] = Field(
        default_factory=dict, description="per input: the values' [low, high], both included"
    )
    verify: float = Field(1.0, ge=0, le=1, description="share of the answers that is checked")
    rtol: float = Field(1e-3, ge=0)
    atol: float = Field(1e-3, ge=0)
    timeout_s: float = Field(30, gt=0, le=3600)
    max_answer_mb: int = Field(256, ge=1, le=2000, description="an answer beyond it is not read on, and failed")
    seed: int = Field(1, ge=0, lt=2**32)

    @model_validator(mode="before")
    @classmethod
    def _unset_is_the_default_of_the_api(cls, table: Any) -> Any:
        if not isinstance(table, Mapping) or (api := APIS.get(table.get("api", "kserve"))) is None:
            return table
        protocol = table.get("protocol", api.protocol())
        carrier = api.carriers.get(protocol)
        transport = {"transport": carrier.transports[0]} if carrier else {}
        return {"protocol": protocol, **transport, **table}

    @model_validator(mode="after")
    def _api_protocol_and_transport_fit(self) -> Load:
        if (api := APIS.get(self.api)) is None:
            raise ValueError(f'load.api: found "{self.api}"; allowed: {", ".join(APIS)}')
        if (carrier := api.carriers.get(self.protocol)) is None:
            allowed = ", ".join(api.carriers)
            raise ValueError(f'load.protocol: found "{self.protocol}"; load.api = "{self.api}" allows: {allowed}')
        if self.transport not in carrier.transports:
            where = f'load.api = "{self.api}" over {self.protocol}'
            allowed = ", ".join(carrier.transports)
            raise ValueError(f'load.transport: found "{self.transport}"; {where} allows: {allowed}')
        return self

    @field_validator("payload")
    @classmethod
    def _payload_is_known(cls, value: str) -> str:
        kind, _, where = value.partition(":")
        if value in ("random", "images") or (kind in ("images", "npy") and where):
            return value
        raise ValueError("allowed: random, images, images:DIR, npy:FILE")

    @field_validator("ranges")
    @classmethod
    def _ranges_are_ordered(cls, value: dict[str, Range]) -> dict[str, Range]:
        for name, (low, high) in value.items():
            if low > high:
                raise ValueError(f"{name}: low {low} is over high {high}")
        return value

    @model_validator(mode="after")
    def _arrivals_have_what_they_need(self) -> Load:
        needs = {"constant": "rate_rps", "poisson": "rate_rps", "steps": "steps", "trace": "trace"}
        needed = needs.get(self.arrivals)
        if needed and not getattr(self, needed):
            raise ValueError(f'arrivals = "{self.arrivals}" needs load.{needed}')
        for key in ("rate_rps", "steps", "trace"):
            if key != needed and getattr(self, key):
                users = " or ".join(f'"{arrivals}"' for arrivals, need in needs.items() if need == key)
                raise ValueError(f'load.{key} is for arrivals = {users}; here it is "{self.arrivals}"')
        return self

    @model_validator(mode="after")
    def _workers_from_elsewhere_are_processes(self) -> Load:
        if self.expect_workers > self.processes:
            raise ValueError(f"load.expect_workers = {self.expect_workers} is over load.processes = {self.processes}")
        return self

    @property
    def inferences(self) -> int:
        """How many a request counts as."""
        return 1 if self.batch == "none" else self.batch

    @property
    def answer_bytes_max(self) -> int:
        return self.max_answer_mb * 1_000_000

    @property
    def is_open(self) -> bool:
        """Requests are sent at their planned times, whatever the earlier ones do."""
        return self.arrivals != "closed"


class Measure(Section):
    """When the measurement happens; the window starts after the warm-up and is never moved."""

    warmup_s: float = Field(2, ge=0, le=3600)
    duration_s: float = Field(10, gt=0, le=86_400)
    drain_s: float = Field(5, ge=0, le=600)
    repeats: int = Field(1, ge=1, le=1000)


class LoadSpec(Section):
    """One run, as master, workers and payload maker get it (JSON); `url` is host:port of balancer or server."""

    run: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$", description="first part of every request's id")
    url: str = Field(pattern=r"^[^\s/]+:\d+$")
    model: str
    load: Load
    measure: Measure
    repeat: int = Field(1, ge=1, description="from 1 on; each has Poisson arrivals of its own")

    @model_validator(mode="after")
    def _requests_are_bounded(self) -> LoadSpec:
        if message := too_many_requests(self.load, self.measure):
            raise ValueError(message)
        return self


def too_many_requests(load: Load, measure: Measure) -> str | None:
    """What is wrong, and its cure, where an open-loop run would plan more than REQUESTS_MAX requests."""
    if load.arrivals == "steps":
        key, requests = "load.steps", sum(rate_rps * duration_s for rate_rps, duration_s in load.steps)
    else:
        key, requests = "load.rate_rps", (load.rate_rps or 0) * (measure.warmup_s + measure.duration_s)
    if requests <= REQUESTS_MAX:
        return None
    return f"{key}: {requests:,.0f} requests are over {REQUESTS_MAX:,}: lower it or measure.duration_s"
