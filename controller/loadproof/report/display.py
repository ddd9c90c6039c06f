"""The sentences and figures of a report, shared by the HTML and markdown reports and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from loadproof.analyse.formats import ABSENT as ABSENT
from loadproof.analyse.formats import figure as figure
from loadproof.analyse.formats import percent
from loadproof.analyse.schema import (
    Bucket,
    Finalist,
    Latency,
    RunSummary,
    SearchAnswer,
    SweetSpot,
    Trend,
    TuneAnswer,
)
from loadproof.analyse.sweet_spot import keeps
from loadproof_clients.apis import APIS, PROTOCOLS

SEARCHED: Final = {"load.rate_rps": ("rate", " requests/s"), "load.clients": ("number of clients", "")}
_RANK: Final = {"VALID": 0, "FLAGGED": 1, "INVALID": 2}


def count(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.0f}"


def bounds(latency_ms: Latency, name: str) -> str:
    """The percentile's confidence bounds, `12.0 to 12.5`; an open side says so."""
    low, high = latency_ms.low[name], latency_ms.high[name]
    if low is None and high is None:
        return ABSENT
    return f"{figure(low)} to {figure(high)}" if high is not None else f"{figure(low)} or more"


def of_witness(value: float | Bucket | None) -> str:
    """A witness's figure: exact, or the [low, high] of the bucket that it lies in."""
    if isinstance(value, tuple):
        low, high = value
        return f"{figure(low)} to {figure(high)}" if high is not None else f"over {figure(low)}"
    return figure(value)


def verdict(runs: Sequence[RunSummary]) -> str:
    """The campaign's verdict is its worst run's; a campaign without runs has nothing to trust."""
    return max((one.verdict for one in runs), key=_RANK.__getitem__, default="INVALID")


def agreement(run: RunSummary) -> str:
    """The witnesses' counts over the whole run in a line, the balancer's log among them where it differs.

    Counts may differ and yet agree, when each missing request is accounted for: then no sign stands between them.
    """
    seen = {name: witness.requests for name, witness in run.witnesses.present().items()}
    rows = run.reconcile.balancer_rows
    if rows != seen.get("balancer"):
        seen["balancer's log"] = rows
    differ = " ≠ " if run.reconcile.differences else ", "
    words, last = "", None
    for name, number in seen.items():
        words += (" = " if number == last else differ) if words else ""
        words, last = f"{words}{name} {count(number)}", number
    return words


def load(spec: Mapping[str, Any]) -> str:
    """What was offered, in a line."""
    plan = spec.get("load", {})
    clients, processes = plan.get("clients", 0), plan.get("processes", 1)
    parts = [
        f"{clients:,} client{'s' * (clients != 1)} in {processes} process{'es' * (processes != 1)}",
        loop(spec),
        interface(plan),
        "direct" if plan.get("via") == "direct" else "through the balancer",
        "no batch" if plan.get("batch") == "none" else f"batch {plan.get('batch', 1)}",
    ]
    return ", ".join(part for part in parts if part)


def interface(load: Mapping[str, Any]) -> str:
    """`KServe v2, gRPC`; runs that do not name their API were before there were others."""
    api, protocol = load.get("api", "kserve"), load.get("protocol", "")
    title = APIS[api].title if api in APIS else api
    return f"{title}, {PROTOCOLS[protocol]}" if protocol in PROTOCOLS else title


def answer(search: SearchAnswer) -> str:
    """What a search found, in one or two sentences."""
    limits = " and ".join(_limit(metric, limit) for metric, limit in search.limits.items())
    cost = f"{len(search.levels)} levels, {search.seconds:.0f} s of load."
    more = "" if search.ended else " The search was not ended."
    one, unit = SEARCHED[search.key]
    if search.highest is None:
        return f"No {one} keeps {limits}. {cost}{more}"
    fails = "no level failed" if search.fails_at is None else f"{search.fails_at:g} does not"
    failed = [level for level in search.levels if level.value == search.fails_at]
    if failed and (doubts := failed[0].doubts):
        fails += f", but that may not be the server's doing ({', '.join(doubts)})"
    return f"The highest {one} that keeps {limits} is {search.highest:g}{unit}; {fails}. {cost}{more}"


def _limit(metric: str, limit: float) -> str:
    if metric.endswith("_ms"):
        return f"{percentile(metric)} within {limit:g} ms"
    return f"{metric} {'at least' if metric.startswith('throughput') else 'at most'} {limit:g}"


def percentile(metric: str) -> str:
    """`p99.9` of `p99_9_ms`."""
    return metric.removesuffix("_ms").replace("_", ".")


def sweet_spot(spot: SweetSpot) -> str:
    """The best configuration and what it does, in a sentence or two."""
    name, limit = percentile(spot.metric), spot.limit
    found = spot.configurations
    best = next((one for one in found if one.name == spot.best), None)
    if best is None:
        bounds_ms = [one.latency_high_ms for one in found if one.eligible and one.latency_high_ms is not None]
        least = f": the least upper bound is {figure(min(bounds_ms))} ms" if bounds_ms else ""
        within = "has figures to trust" if limit is None else f"surely keeps {name} within {limit:g} ms"
        return f"None of {len(found)} configurations {within}{least}."
    figures = f"{best.name}: {figure(best.throughput_ips)} inferences/s, {name} {figure(best.latency_ms)} ms"
    text = f"Sweet spot: {figures} (upper bound {figure(best.latency_high_ms)} ms)."
    if limit is None:
        return f"{text} It is the most throughput: no latency limit is set (sweet_spot.{spot.metric} sets one)."
    kept = sum(keeps(one, limit) for one in found)
    return f"{text} Of {len(found)} configurations {kept} surely keep {name} within {limit:g} ms."


def tuning(tune: TuneAnswer) -> str:
    """How a tuning came to its answer, in a sentence."""
    cost = f"{tune.runs} runs, {tune.seconds:.0f} s of load"
    measured = f"{tune.measured} of {tune.combinations:,} combinations were measured ({cost})"
    untried = tune.untried
    if not tune.ended:
        ended = "; it was not ended."
    elif untried:
        ended = f"; tune.runs_max ended it, with {untried} step{'s' * (untried > 1)} from there untried."
    else:
        ended = f"; no step from there is better by over {tune.tolerance:.0%}."
    return measured + ended + _finalists(tune)


def _finalists(tune: TuneAnswer) -> str:
    """Whether the best was measured again, and whether it differs from what came near it."""
    if not tune.finalists:
        return ""
    best, *others = tune.finalists
    if best.runs == 1:
        return " The best was measured only once: it is not proved."
    spread = f"{_rates(best)} inferences/s in {best.runs} runs"
    if not others:
        return f" The best made {spread}; nothing else came within {tune.tolerance:.0%} of it."
    near = " and ".join(f"{_differing(one, best)} ({_rates(one)} in {one.runs})" for one in others)
    if any(one.high_ips >= best.low_ips for one in others):
        return f" Not decided: the best made {spread}, and as good may be {near}."
    return f" The best made {spread}, and stayed ahead of {near}."


def _rates(finalist: Finalist) -> str:
    return f"{figure(finalist.low_ips)} to {figure(finalist.high_ips)}"


def _differing(one: Finalist, best: Finalist) -> str:
    """Of a configuration's name the settings that the best does not have."""
    return ", ".join(part for part in one.name.split(", ") if part not in best.name.split(", "))


def ceiling(run: RunSummary) -> str:
    """What was served beside what OpenVINO does in process, in a sentence; empty where no ceiling was asked for."""
    found = run.ceiling
    if found is None:
        return ""
    if found.error:
        return f"The ceiling was not measured: {found.error}."
    most = f"{figure(found.throughput_ips)} inferences/s in process (benchmark_app, {found.nireq} infer requests)"
    if found.efficiency is None:
        return f"Ceiling: {most}; nothing was served."
    return f"Ceiling: {most}; {figure(run.throughput_ips)}/s were served, {percent(found.efficiency)} of it."


def worth(run: RunSummary) -> str:
    """What a run's inferences cost in money and energy, in a line; what was not measured says so."""
    parts = []
    if cost := run.value:
        rate, million = measured(cost.per_unit), measured(cost.per_million)
        parts.append(f"{rate} inferences/s per {cost.unit}, {million} {cost.currency} a million")
    energy = run.energy
    if energy and energy.watts is None:
        parts.append(f"power not measured: {energy.problem}")
    elif energy:
        stated = " (stated, not measured)" if energy.source == "constant" else ""
        rates = f"{measured(energy.per_joule)} inferences/J, above idle {measured(energy.per_joule_above_idle)}"
        parts.append(f"{figure(energy.watts)} W{stated}, {rates}")
    return "; ".join(parts)


def measured(value: float | None) -> str:
    """A figure, or that there is none: never a zero."""
    return "not measured" if value is None else figure(value)


def loop(spec: Mapping[str, Any]) -> str:
    """`closed loop`, or `open loop, poisson 200/s`."""
    plan = spec.get("load", {})
    arrivals = plan.get("arrivals", "closed")
    if arrivals == "closed":
        return "closed loop"
    rates = [rate for rate, _ in plan.get("steps", [])] or [plan.get("rate_rps")]
    if rates == [None]:
        return f"open loop, {arrivals}"
    range_rps = f"{rates[0]:g}" if len(rates) == 1 else f"{min(rates):g} to {max(rates):g}"
    return f"open loop, {arrivals} {range_rps}/s"


def anchor(spec: Mapping[str, Any]) -> str:
    """From when to when a latency runs."""
    is_open = spec.get("load", {}).get("arrivals", "closed") != "closed"
    return "planned to received" if is_open else "sent to received"


def change(trend: Trend | None) -> str:
    """A trend's change along the window with its bounds."""
    if trend is None:
        return "too few blocks"
    change, low, high = (percent(value, sign="+") for value in (trend.change, trend.low, trend.high))
    return f"{change} (99 % bounds {low} to {high})"


def settings(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The resolved plan as `section.key` and value, without what is empty."""
    for section, keys in spec.items():
        for key, value in keys.items():
            if value not in (None, {}, []):
                yield f"{section}.{key}", _text(value)


def environment(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Recorded facts as lines, without what is empty: a nested table takes one line, sizes are in GiB or MiB."""
    for key, value in facts.items():
        name = f"{prefix}{key.removesuffix('_bytes').replace('_', ' ')}"
        if isinstance(value, int | float) and key.endswith("_bytes"):
            yield name, f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
        elif value not in (None, "", [], {}):
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{inner} {text}" for inner, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
