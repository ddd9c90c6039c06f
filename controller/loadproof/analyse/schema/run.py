"""A RUN of summary.json: what one run came to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from loadproof.analyse.schema.latency import Bounds, Latency
from loadproof.analyse.schema.part import Copied, Part, Table
from loadproof.analyse.schema.resources import Ceiling, Container, Energy, Generator, Machine, Trend, Value
from loadproof.analyse.schema.witnesses import Account, Breakdown, Interference, Reconciliation, Witnesses

Severity = Literal["INVALID", "FLAGGED"]
Verdict = Literal["VALID", "FLAGGED", "INVALID"]


class Reason(Part):
    """Why a run is not VALID, of the closed table in analyse/checks/table.py."""

    code: str
    severity: Severity
    message: str
    remedy: str


class OverLimit(Part):
    """How many requests were over the limit of their percentile, and how many independent ones these are worth."""

    over: int
    of: int
    worth: float


class Limit(Part):
    """A limit of the plan beside its figure; with a percentile's limit come the requests that were over it."""

    metric: str
    limit: float
    value: float | None
    ok: bool
    over: int | None = None
    of: int | None = None
    worth: float | None = None


class Counts(Part):
    """sent = ok + failed + wrong; `unsent` were planned and are not among them."""

    sent: int
    ok: int
    failed: int
    wrong: int
    unsent: int


class Requests(Counts):
    """Requests planned (open loop) or sent (closed loop) inside the window, those answered after it included."""

    unaccounted: int = Field(description="the balancer saw them and no client has a record")
    lost_with_worker: int = Field(
        description="the balancer saw them; their worker died before it delivered its records"
    )

    @property
    def total(self) -> int:
        """Every request that should have been answered."""
        return self.sent + self.unsent + self.unaccounted + self.lost_with_worker

    @property
    def bad(self) -> int:
        """Those that were not answered right."""
        return self.total - self.ok


class Warmup(Counts):
    """What came before the window."""

    throughput_rps: float | None
    mean_ms: float | None
    p50_ms: float | None
    max_ms: float | None


class ThreeWindows(Part):
    """perf_analyzer's rule, on the three thirds of the window."""

    steady: bool
    throughput_rps: list[float]
    latency_ms: list[float] = Field(description="means")


class Steady(Part):
    """Trends over blocks of the window; null with too few blocks."""

    block_s: float
    three_window: ThreeWindows | None
    latency: Trend | None = Field(description="of each block's median")
    in_flight: Trend | None = Field(description="of each block's mean")


class ColdStart(Part):
    """The first hundredth of the window's good answers beside the others, by their medians in ms."""

    before_ms: float | None = Field(description="as many answers at the end of the warm-up")
    first_ms: float
    typical_ms: float
    slowest_ms: float = Field(description="of the last ninety hundredths")


class LittlesLaw(Part):
    """Requests in flight beside throughput times latency."""

    in_flight_mean: float
    rate_rps: float
    latency_ms: float
    ratio: float


class Audit(Part):
    """Repeated inputs beside fresh ones, before the load: `ratio` of their medians with 99 % bounds."""

    fresh: int
    repeated: int
    fresh_ms: float | None
    ratio: float | None
    low: float | None
    high: float | None


class MeasuredWindow(Part):
    """When the measured window was."""

    start: str | None = Field(description="UTC; null when no load began")
    warmup_s: float | None
    duration_s: float | None


class LogCounts(Copied):
    """Lines of the balancer's log."""

    lines: int
    unread: int = Field(description="refused or lost before HAProxy had read what they were")
    dropped: int = Field(description="lost by HAProxy, by its own count")
    bad: int = Field(description="not understood")


class Event(Copied):
    """What the controller saw happen."""

    time_s: float | None = Field(None, description="from T0")
    code: str
    message: str


class CutShort(Copied):
    """Why a search ended a level before its time: a limit was broken whatever had followed."""

    at_s: float = Field(description="from T0")
    metric: str
    limit: float
    over: int
    of: int
    worth: float


class RunSummary(Part):
    """One run of a campaign: its verdict, and every figure that stands behind it."""

    name: str
    directory: str = Field(description="below the campaign's")
    verdict: Verdict
    reasons: list[Reason] = Field(description="worst first")
    notes: list[str]
    slo: list[Limit]
    repeat: int
    spec: dict[str, Table] = Field(description="the resolved plan's sections")
    model: Table | None
    served_by: dict[str, str] | None = Field(description="name and version of the server, as it says")
    requests: Requests
    errors: dict[str, int] = Field(description="how many of the window's requests failed, by status")
    latency_ms: Latency = Field(description="of good answers: from the planned time (open loop) or the sent time")
    service_latency_ms: Latency | None = Field(description="open loop: from the sent time")
    throughput_rps: float | None = Field(description="good answers that came inside the window, over its seconds")
    throughput_ips: float | None = Field(description="inferences: answers times the batch")
    throughput_bounds: Bounds | None
    offered_rps: float | None = Field(description="open loop")
    witnesses: Witnesses
    reconcile: Reconciliation
    interference: Interference | None = Field(description="null where no balancer stood between")
    accounts: list[Account]
    breakdown_ms: Breakdown
    over: dict[str, OverLimit] = Field(description="by the metric of a limit of the plan")
    steady: Steady
    cold_start: ColdStart | None
    littles_law: LittlesLaw | None
    warmup: Warmup
    generator: Generator
    server_container: Container | None
    machine: Machine | None
    audit: Audit | None
    model_changes: list[str]
    window: MeasuredWindow
    log: LogCounts | None
    events: list[Event]
    cut_short: CutShort | None
    complete: bool = Field(description="false where the run ended before its records were written")
    energy: Energy | None
    ceiling: Ceiling | None
    value: Value | None

    @property
    def is_open(self) -> bool:
        """Whether it was an open loop, whose latency runs from the planned time."""
        return self.service_latency_ms is not None

    @property
    def load(self) -> Table:
        """The plan's `[load]`."""
        return self.spec.get("load", {})

    @property
    def limits(self) -> Table:
        """The plan's `[slo]`."""
        return self.spec.get("slo", {})

    def has_event(self, *codes: str) -> bool:
        """Whether the controller saw one of these events."""
        return any(event.code in codes for event in self.events)
