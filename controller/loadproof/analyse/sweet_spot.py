"""The sweet spot: the configuration with the most throughput whose latency surely keeps a limit; pure functions."""

from __future__ import annotations

import json
import re
import statistics as middle
from collections.abc import Mapping, Sequence
from typing import Any

from loadproof.analyse.schema import Configuration, RunSummary, Setting, SweetSpot
from loadproof.analyse.statistics import PERCENTILES

SECTIONS = ("server", "load")  # of the spec: where configurations differ


def answer(plan: Mapping[str, Any], runs: Sequence[RunSummary]) -> SweetSpot | None:
    """`sweet_spot` of summary.json: the limit, the best configuration's name, and every configuration.

    None for fewer than two configurations, and for a search, which has an answer of its own. `limit` is null where the
    plan has none, then the most throughput is best; `best` is null where no configuration keeps the limit.
    """
    groups = by_spec(runs)
    if len(groups) < 2 or plan.get("search"):
        return None
    metric, limit = limit_of(plan)
    metric = metric or _known_to_all(runs)
    settings = _settings([group[0].spec for group in groups])
    found = [configuration(group, own, metric) for group, own in zip(groups, settings, strict=True)]
    placed = [one.model_copy(update={"front": _is_on_front(one, found)}) for one in found]
    chosen = best(placed, limit)
    return SweetSpot(metric=metric, limit=limit, best=chosen.name if chosen else None, configurations=placed)


def limit_of(plan: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """The metric and the limit that decide: those of `[sweet_spot]`, else the highest percentile's of `[slo]`."""
    for section in ("sweet_spot", "slo"):
        given = plan.get(section) or {}
        for metric in (f"{name}_ms" for name in reversed(PERCENTILES)):
            if given.get(metric) is not None:
                return metric, float(given[metric])
    return None, None


def best(configurations: Sequence[Configuration], limit: float | None) -> Configuration | None:
    """The one with the most throughput of those that keep the limit (any latency, where it is None)."""
    kept = [one for one in configurations if keeps(one, limit)]
    return max(kept, key=lambda one: one.throughput_ips or 0.0, default=None)


def keeps(configuration: Configuration, limit: float | None) -> bool:
    """Whether the upper 99 % bound of its percentile is within the limit; where there is no bound nothing is proved."""
    high_ms = configuration.latency_high_ms
    return configuration.eligible and high_ms is not None and (limit is None or high_ms <= limit)


def by_spec(runs: Sequence[RunSummary]) -> list[list[RunSummary]]:
    """The runs by their spec: each list has the repeats of one configuration."""
    groups: dict[str, list[RunSummary]] = {}
    for one in runs:
        groups.setdefault(json.dumps(one.spec, sort_keys=True), []).append(one)
    return list(groups.values())


def plain_name(name: str) -> str:
    """The name of a configuration, to which its repeats add a number."""
    return re.sub(r" #\d+$", "", name)


def configuration(group: Sequence[RunSummary], settings: Mapping[str, Setting], metric: str) -> Configuration:
    """Of repeats the median counts, and the highest bound: each of them has to keep the limit.

    An INVALID run's figures cannot be trusted, and a broken limit on another metric is broken: such a configuration is
    not eligible.
    """
    sound = [one for one in group if one.verdict != "INVALID"]
    name = metric.removesuffix("_ms")
    rates = _all_known([one.throughput_ips for one in sound])
    values = _all_known([one.latency_ms[name] for one in sound])
    highs = _all_known([one.latency_ms.high[name] for one in sound])
    others_kept = all(limit.ok for one in sound for limit in one.slo if limit.metric != metric)
    return Configuration(
        name=plain_name(group[0].name),
        runs=[one.name for one in group],
        settings=dict(settings),
        throughput_ips=middle.median(rates) if rates else None,
        latency_ms=middle.median(values) if values else None,
        latency_high_ms=max(highs) if highs else None,
        eligible=bool(rates) and len(sound) == len(group) and others_kept,
    )


def _all_known(values: Sequence[float | None]) -> list[float]:
    """The values, or none of them where one is not known."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _known_to_all(runs: Sequence[RunSummary]) -> str:
    """The highest percentile whose upper bound every run with answers has."""
    bounds = [one.latency_ms.high for one in runs if one.requests.ok]
    known = [name for name in PERCENTILES if all(high[name] is not None for high in bounds)]
    return f"{known[-1] if known else 'p50'}_ms"


def _is_on_front(one: Configuration, all_of_them: Sequence[Configuration]) -> bool:
    """Nothing else that is eligible has as much throughput at a lower bound, or more at the same (Pareto)."""
    if not keeps(one, None):
        return False
    (rate, high_ms), others = _place(one), [_place(other) for other in all_of_them if keeps(other, None)]
    return not any(more >= rate and less <= high_ms and (more, less) != (rate, high_ms) for more, less in others)


def _place(one: Configuration) -> tuple[float, float]:
    """Throughput and upper bound of a configuration that has both."""
    assert one.throughput_ips is not None and one.latency_high_ms is not None
    return one.throughput_ips, one.latency_high_ms


def _settings(specs: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Setting]]:
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
