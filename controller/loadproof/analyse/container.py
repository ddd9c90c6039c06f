"""The server's container inside the window: CPU, memory, and how long its CPU limit held it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loadproof.analyse.population import Window
from loadproof.analyse.schema import Container
from loadproof.analyse.scrapes import Edges, Scrapes


def usage(facts: Mapping[str, Any], samples: pa.Table, window: Window) -> Container | None:
    """`server_container` of a RUN; None where the server was not started in one, nulls where nothing was sampled.

    CPU is in percent of one core, over all of the container's threads: `max` is that of the busiest second. Throttling
    is the kernel's count (CFS bandwidth control): periods in which the container wanted more than its limit.
    """
    about = facts.get("server", {}).get("container")
    if about is None:
        return None
    samples = samples.filter(pc.equal(samples["source"], "container"))
    scrapes, edges = Scrapes(samples, "container"), Edges(window.start / 1e9, window.end / 1e9)
    memory = samples.filter(pc.equal(samples["name"], "container_memory_working_set_bytes"))["value"]
    mean_percent, max_percent = _cpu_percent(samples, edges)

    def kernel(name: str) -> float | None:
        if mean_percent is None:  # there is no time between two samples of the window
            return None
        return scrapes.growth(f"container_cpu_cfs_{name}_total", edges)

    return Container(
        image=about.get("image"),
        image_id=about.get("image_id"),
        engine=about.get("engine"),
        cpu_percent_mean=mean_percent,
        cpu_percent_max=max_percent,
        memory_bytes_max=int(pc.max(memory).as_py()) if len(memory) else None,
        periods=_whole(kernel("periods")),
        throttled_periods=_whole(kernel("throttled_periods")),
        throttled_s=kernel("throttled_seconds"),
    )


def _whole(count: float | None) -> int | None:
    return None if count is None else round(count)


def _cpu_percent(samples: pa.Table, edges: Edges) -> tuple[float | None, float | None]:
    """Mean and maximum between the samples that are nearest to the window's edges."""
    own = samples.filter(pc.equal(samples["name"], "container_cpu_usage_seconds_total"))
    time_s, used_s = own["time"].to_numpy(), own["value"].to_numpy()
    if len(time_s) < 2:
        return None, None
    first, last = (int(np.abs(time_s - edge).argmin()) for edge in (edges.start_s, edges.end_s))
    if first == last:
        return None, None
    at, used = time_s[first : last + 1], used_s[first : last + 1]
    percent = np.diff(used) / np.diff(at) * 100
    return float((used[-1] - used[0]) / (at[-1] - at[0]) * 100), float(percent.max())
