"""What a run used: the load generator, the machine, the server's container, energy, and the ceiling beside it."""

from __future__ import annotations

from pydantic import Field

from loadproof.analyse.schema.latency import Bucket
from loadproof.analyse.schema.part import Copied, Part, Table


class Trend(Part):
    """How much a series changed along the window, as a share of its median, with bounds of the change."""

    median: float
    change: float
    low: float
    high: float
    confidence: float


class Share(Part):
    """A share in percent, with its 99 % bounds."""

    mean: float
    low: float
    high: float


class WorstShare(Part):
    """A share of the window in percent, of the worker where it is largest, and its lower 99 % bound."""

    mean: float
    low: float | None


class Late(Part):
    """How many of the window's sends were late, and the lower 99 % bound of their share."""

    over: int
    of: int
    low: float


class Generator(Part):
    """The load generator inside the window; CPU is in percent of one core. Null where nothing was recorded."""

    workers: int
    cpu_percent_max: float | None
    cpu_percent_median: float | None = Field(description="of the busiest worker")
    rss_bytes_max: int | None
    in_flight_max: int | None
    connections_max: int | None = Field(description="of all workers together, at once")
    verify_us_per_request: float | None
    ship_cpu_percent: float | None
    unsent: int = Field(description="due and not sent, over the whole run")
    clock_bound_ms_max: float = Field(description="how far a worker's stamps can be off beside the balancer's")
    stood: WorstShare | None = Field(description="the event loop stood still")
    gc: WorstShare | None = Field(description="garbage was collected")
    waited: WorstShare | None = Field(description="threads were ready and had no core")
    wait_ms_per_request: float | None
    clock_steps_ms: dict[str, float] = Field(description="by how much each worker's wall clock was set")
    streams_full: int = Field(description="readings in which a worker had no free stream")
    starts_apart_ms: float | None
    late: Late | None = Field(description="open loop")
    lateness_ms_p50: float | None
    lateness_ms_p99: float | None
    lateness_ms_p50_worst: float | None = Field(description="of the worker whose median is the highest")
    lateness_ms_max: float | None
    ceiling_rps: float | None = Field(description="of one worker process, as calibrated")
    ceiling_share: float | None = Field(description="what the busiest worker did of it")
    ceiling_share_low: float | None
    floor_p50_ms: float | None = Field(description="against a server that answers at once, as calibrated")
    floor_share: float | None = Field(description="of the run's median, from sent to received")
    floor_share_low: float | None


class Machine(Part):
    """The machine inside the window."""

    cpus: int
    other: Share | None = Field(description="busy with what is none of the run's processes, of all CPUs")
    steal: Share | None = Field(description="taken by other guests of the host, of all CPUs")
    pressure_percent: float | None = Field(description="of the time, in which some task waited for a CPU")
    wait_ms_per_request: dict[str, float] = Field(description="for a CPU, all threads of a party together")
    frequency: Trend | None
    thermal_throttles: float | None
    quota_throttled_s: float | None
    clock_step_ms: float | None


class Container(Part):
    """The server's container inside the window; CPU is in percent of one core."""

    image: str | None
    image_id: str | None
    engine: Table | None
    cpu_percent_mean: float | None
    cpu_percent_max: float | None = Field(description="of the busiest second")
    memory_bytes_max: int | None
    periods: int | None = Field(description="of the kernel's CPU bandwidth control")
    throttled_periods: int | None
    throttled_s: float | None


class Energy(Part):
    """The energy of the window; what was not measured is null, and `problem` says why."""

    source: str
    problem: str | None
    joules: float | None
    watts: float | None
    idle_watts: float | None
    per_joule: float | None = Field(description="inferences")
    per_joule_above_idle: float | None = Field(description="inferences, of the power above idle alone")


class Value(Part):
    """What inferences cost."""

    currency: str
    unit: str = Field(description="the currency where the system has a price, and currency an hour where it is rented")
    per_unit: float | None = Field(description="inferences a second")
    per_million: float | None = Field(description="cost of a million inferences")


class InProcess(Copied):
    """Latency of benchmark_app, in ms."""

    mean: float
    p50: float
    min: float
    max: float


class Rung(Part):
    """A step of the ladder from OpenVINO in process to the client."""

    rung: str
    mean_ms: float | None
    p50_ms: float | Bucket | None


class Ceiling(Part):
    """What benchmark_app did with the same settings in process, and what was served beside it."""

    throughput_ips: float | None = None
    latency_ms: InProcess | None = None
    iterations: int | None = None
    duration_s: float | None = None
    nireq: int | None = None
    error: str | None = Field(description="why it could not be measured")
    efficiency: float | None = Field(description="served over ceiling, in inferences a second")
    ladder: list[Rung]


class CalibratedRow(Copied):
    """The ceiling and the floor of one worker process, over one transport; bounds are at 99 %."""

    api: str | None = None
    transport: str
    protocol: str
    ceiling_rps: float
    ceiling_low_rps: float | None = None
    ceiling_high_rps: float
    cpu_percent: float | None = None
    cpu_us_per_request: float | None = None
    floor_p50_ms: float | None
    floor_p50_low_ms: float | None
    floor_p50_high_ms: float | None = None
    floor_p99_ms: float | None = None
    requests: int | None = None


class Calibration(Copied):
    """What was known of the load generator's own limits; only a valid one has rows."""

    state: str
    note: str | None
    created: str | None
    threads: int | None = Field(description="CPUs that a process could use")
    rows: list[CalibratedRow] = Field(alias="ways")
