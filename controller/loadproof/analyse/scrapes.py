"""What a source's /metrics showed over a run: the growth of its counters and histograms between two scrapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Edges:
    """Two moments, in seconds from T0; None is the first and the last scrape."""

    start_s: float | None = None
    end_s: float | None = None


class Scrapes:
    """The scraped samples of one source, and the growth of its counters between two scrapes."""

    def __init__(self, samples: pa.Table, source: str) -> None:
        own = samples.filter(pc.equal(samples["source"], source))
        self._names = own["name"].combine_chunks()
        self._labels = own["labels"].combine_chunks()
        self._time, self._value = own["time"].to_numpy(), own["value"].to_numpy()
        self._at = np.unique(self._time)

    def growth(self, name: str, edges: Edges, **labels: str) -> float | None:
        """How much the counter grew, over all its series with `labels`; a series that is not there yet counts as 0.

        A counter that went down began again (its process restarted) and has grown by what it then showed, as in
        Prometheus' increase(). None where the source was scraped less than twice, or never showed such a series.
        """
        grown = self._growth_by_labels(name, edges, labels)
        return sum(value for _, value in grown) if grown else None

    def histogram(self, name: str, edges: Edges, **labels: str) -> tuple[Floats, Floats]:
        """Upper bounds (ascending) and the growth of the cumulative buckets; empty arrays where it is missing."""
        growth: dict[float, float] = {}
        for found, value in self._growth_by_labels(f"{name}_bucket", edges, labels):
            bound = float(found["le"])
            growth[bound] = growth.get(bound, 0.0) + value
        ordered = sorted(growth.items())
        return np.array([bound for bound, _ in ordered]), np.array([value for _, value in ordered])

    def restarted(self, name: str) -> bool:
        """True where a series of the counter once went down."""
        rows = np.flatnonzero(pc.equal(self._names, name).to_numpy(zero_copy_only=False))
        labels, values = np.array(self._labels.take(pa.array(rows)).to_pylist(), object), self._value[rows]
        return any(bool((np.diff(values[labels == one]) < 0).any()) for one in set(labels.tolist()))

    def values(self, name: str, edges: Edges) -> tuple[Floats, Floats]:
        """When (seconds from T0) and what the first series of that name showed between the edges; empty: never."""
        rows = np.flatnonzero(pc.equal(self._names, name).to_numpy(zero_copy_only=False))
        if not len(rows):
            return np.empty(0), np.empty(0)
        start, end = self._nearest(edges.start_s, 0), self._nearest(edges.end_s, -1)
        own = rows[(self._time[rows] >= start) & (self._time[rows] <= end)]
        return self._time[own], self._value[own]

    def latest(self, name: str) -> float | None:
        """The last value of that name."""
        _, value = self.values(name, Edges())
        return float(value[-1]) if len(value) else None

    def span_s(self, edges: Edges) -> float:
        """The seconds between the scrapes that stand for the edges."""
        return self._nearest(edges.end_s, -1) - self._nearest(edges.start_s, 0) if len(self._at) else 0.0

    def series(self, name: str) -> dict[str, Floats]:
        """All values of each series of that name, by its labels."""
        rows = np.flatnonzero(pc.equal(self._names, name).to_numpy(zero_copy_only=False))
        texts = np.array(self._labels.take(pa.array(rows)).to_pylist(), object)
        return {text: self._value[rows[texts == text]] for text in dict.fromkeys(texts.tolist())}

    def _growth_by_labels(
        self, name: str, edges: Edges, labels: Mapping[str, str]
    ) -> list[tuple[dict[str, str], float]]:
        if len(self._at) < 2:
            return []
        start, end = self._nearest(edges.start_s, 0), self._nearest(edges.end_s, -1)
        rows = np.flatnonzero(pc.equal(self._names, name).to_numpy(zero_copy_only=False))
        texts = self._labels.take(pa.array(rows))
        grown = []
        for text in pc.unique(texts).to_pylist():
            found = json.loads(text)
            if labels.items() <= found.items():
                own = rows[pc.equal(texts, text).to_numpy(zero_copy_only=False)]
                at, value = self._time[own], self._value[own]
                grown.append((found, _increase(value[(at >= start) & (at <= end)], bool((at == start).any()))))
        return grown

    def _nearest(self, time_s: float | None, default: int) -> float:
        return float(self._at[default if time_s is None else np.abs(self._at - time_s).argmin()])


def _increase(values: Floats, from_start: bool) -> float:
    """The growth along a counter's values, by time; unless it was there at the start, it began at 0."""
    steps = np.diff(values, prepend=values[:1] if from_start else 0.0)
    return float(np.where(steps < 0, values, steps).sum())
