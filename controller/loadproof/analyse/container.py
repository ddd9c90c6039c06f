"""The server's container inside the window: CPU, memory, and how long its CPU limit held it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loadproof.analyse.population import Window
from loadproof.analyse.scrapes import Edges, Scrapes


def usage(facts: Mapping[str, Any], samples: pa.Table, window: Window) -> dict[str, Any] | None:
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
    cpu_percent = _cpu_percent(samples, edges)
    kernel: dict[str, float | None] = dict.fromkeys(("periods", "throttled_periods", "throttled_seconds"))
    if cpu_percent["cpu_percent_mean"] is not None:  # else there is no time between two samples of the window
        kernel |= {name: scrapes.growth(f"container_cpu_cfs_{name}_total", edges) for name in kernel}
    return {
        "image": about.get("image"),
        "image_id": about.get("image_id"),
        "engine": about.get("engine"),
        **cpu_percent,
        "memory_bytes_max": None if not len(memory) else int(pc.max(memory).as_py()),
        "periods": _whole(kernel["periods"]),
        "throttled_periods": _whole(kernel["throttled_periods"]),
        "throttled_s": kernel["throttled_seconds"],
    }


def _whole(count: float | None) -> int | None:
    return None if count is None else round(count)


def _cpu_percent(samples: pa.Table, edges: Edges) -> dict[str, float | None]:
    """Between the samples that are nearest to the window's edges."""
    own = samples.filter(pc.equal(samples["name"], "container_cpu_usage_seconds_total"))
    time_s, used_s = own["time"].to_numpy(), own["value"].to_numpy()
    names = ("cpu_percent_mean", "cpu_percent_max")
    if len(time_s) < 2:
        return dict.fromkeys(names)
    first, last = (int(np.abs(time_s - edge).argmin()) for edge in (edges.start_s, edges.end_s))
    if first == last:
        return dict.fromkeys(names)
    at, used = time_s[first : last + 1], used_s[first : last + 1]
    percent = np.diff(used) / np.diff(at) * 100
    return dict(zip(names, (float((used[-1] - used[0]) / (at[-1] - at[0]) * 100), float(percent.max())), strict=True))
