"""Latencies as summary.json has them, all in milliseconds; null where too few requests stand behind a figure."""

from __future__ import annotations

from pydantic import Field

from loadproof.analyse.schema.part import Part

Bucket = tuple[float, float | None]  # [low, high] of the histogram's bucket that a value lies in; null: to infinity


class Percentiles(Part):
    """A value for each percentile, by its name."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None

    def __getitem__(self, name: str) -> float | None:
        """The value of `name`, as in `bounds["p99"]`; KeyError where there is no such percentile."""
        value: float | None = self._named(name)
        return value


class WitnessLatency(Part):
    """What client or balancer timed, without bounds: it is there to be compared."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None

    def __getitem__(self, name: str) -> float | None:
        """The value of `name`, as in `latency["p99"]`; KeyError where there is no such figure."""
        value: float | None = self._named(name)
        return value


class Latency(WitnessLatency):
    """Mean, nearest-rank percentiles and maximum of pooled requests, with the confidence bounds of the percentiles."""

    low: Percentiles
    high: Percentiles
    confidence: float = Field(description="of each pair of bounds, as a share")

    def without_bounds(self) -> WitnessLatency:
        return WitnessLatency(**{name: self[name] for name in WitnessLatency.model_fields})


class BucketLatency(Part):
    """What the server's histogram holds: the mean is exact, a percentile is the bucket that it lies in."""

    mean: float | None
    p50: Bucket | None
    p90: Bucket | None
    p95: Bucket | None
    p99: Bucket | None
    p99_9: Bucket | None

    def __getitem__(self, name: str) -> float | Bucket | None:
        """The value of `name`; KeyError where there is no such figure."""
        value: float | Bucket | None = self._named(name)
        return value


class Bounds(Part):
    """Confidence bounds of a figure."""

    low: float
    high: float
    confidence: float = Field(description="as a share")
