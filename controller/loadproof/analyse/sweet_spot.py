"""The sweet spot: the configuration with the most throughput whose latency surely keeps a limit; pure functions."""

from __future__ import annotations

import json
import re
import statistics as middle
from collections.abc import Mapping, Sequence
from typing import Any

from loadproof.analyse.statistics import PERCENTILES

Run = Mapping[str, Any]
SECTIONS = ("server", "load")  # of the spec: where configurations differ


def answer(plan: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any] | None:
    """`sweet_spot` of summary.json: the limit, the best configuration's name, and every configuration.

    None for fewer than two configurations, and for a search, which has an answer of its own. `limit` is null where the
    plan has none, then the most throughput is best; `best` is null where no configuration keeps the limit.
    """
    groups = alike(runs)
    if len(groups) < 2 or plan.get("search"):
        return None
    metric, limit = limit_of(plan)
    metric = metric or _known_to_all(runs)
    settings = _settings([group[0]["spec"] for group in groups])
    found = [configuration(group, own, metric) for group, own in zip(groups, settings, strict=True)]
    for one in found:
        one["front"] = _is_on_front(one, found)
    chosen = best(found, limit)
    return {"metric": metric, "limit": limit, "best": chosen and chosen["name"], "configurations": found}


def limit_of(plan: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """The metric and the limit that decide: those of `[sweet_spot]`, else the highest percentile's of `[slo]`."""
    for section in ("sweet_spot", "slo"):
        given = plan.get(section) or {}
        for metric in (f"{name}_ms" for name in reversed(PERCENTILES)):
            if given.get(metric) is not None:
                return metric, float(given[metric])
    return None, None


def best(configurations: Sequence[Mapping[str, Any]], limit: float | None) -> Mapping[str, Any] | None:
    """The one with the most throughput of those that keep the limit (any latency, where it is None)."""
    kept = [one for one in configurations if keeps(one, limit)]
    return max(kept, key=lambda one: one["throughput_ips"], default=None)


def keeps(configuration: Mapping[str, Any], limit: float | None) -> bool:
    """Whether the upper 99 % bound of its percentile is within the limit; where there is no bound nothing is proved."""
    high_ms = configuration["latency_high_ms"]
    return bool(configuration["eligible"]) and high_ms is not None and (limit is None or high_ms <= limit)


def alike(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs by their spec: each list has the repeats of one configuration."""
    groups: dict[str, list[Run]] = {}
    for one in runs:
        groups.setdefault(json.dumps(one["spec"], sort_keys=True), []).append(one)
    return list(groups.values())


def name_of(group: Sequence[Run]) -> str:
    """The name of a configuration, which its repeats bear with a number."""
    return re.sub(r" #\d+$", "", str(group[0]["name"]))


def configuration(group: Sequence[Run], settings: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Of repeats the median counts, and the highest bound: each of them has to keep the limit.

    An INVALID run's figures cannot be trusted, and a broken limit on another metric is broken: such a configuration is
    not eligible.
    """
    sound = [one for one in group if one["verdict"] != "INVALID"]
    name = metric.removesuffix("_ms")
    values, highs = ([one[name] for one in parts] for parts in _latencies(sound))
    rates = [one["throughput_ips"] for one in sound]
    others_kept = all(limit["ok"] for one in sound for limit in one["slo"] if limit["metric"] != metric)
    known = bool(sound) and None not in rates
    return {
        "name": name_of(group),
        "runs": [one["name"] for one in group],
        "settings": settings,
        "throughput_ips": middle.median(rates) if known else None,
        "latency_ms": middle.median(values) if sound and None not in values else None,
        "latency_high_ms": max(highs) if sound and None not in highs else None,
        "eligible": known and len(sound) == len(group) and others_kept,
    }


def _latencies(runs: Sequence[Run]) -> tuple[list[Any], list[Any]]:
    return [one["latency_ms"] for one in runs], [one["latency_ms"]["high"] for one in runs]


def _known_to_all(runs: Sequence[Run]) -> str:
    """The highest percentile whose upper bound every run with answers has."""
    bounds = [one["latency_ms"]["high"] for one in runs if one["requests"]["ok"]]
    known = [name for name in PERCENTILES if all(high[name] is not None for high in bounds)]
    return f"{known[-1] if known else 'p50'}_ms"


def _is_on_front(one: Mapping[str, Any], all_of_them: Sequence[Mapping[str, Any]]) -> bool:
    """Nothing else that is eligible has as much throughput at a lower bound, or more at the same (Pareto)."""
    if not keeps(one, None):
        return False
    mine = one["throughput_ips"], -one["latency_high_ms"]
    others = [(other["throughput_ips"], -other["latency_high_ms"]) for other in all_of_them if keeps(other, None)]
    return not any(rate >= mine[0] and low >= mine[1] and (rate, low) != mine for rate, low in others)


def _settings(specs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each spec the single values, as `section.key`, that are not the same in all of them."""
    flat = [
        {
            f"{section}.{key}": value
            for section in SECTIONS
            for key, value in spec.get(section, {}).items()
            if isinstance(value, str | int | float)
        }
        for spec in specs
    ]
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if len({one.get(key) for one in flat}) > 1]
    return [{key: one.get(key) for key in differing} for one in flat]
