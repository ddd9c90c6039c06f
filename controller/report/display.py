"""How figures and facts are put into words: shared by the HTML and markdown reports and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

ABSENT: Final = "—"
PARTS: Final = {
    "lateness": "sent late",
    "client_network": "client + network",
    "balancer": "balancer",
    "server_queue": "server queue",
    "inference": "inference",
    "server_rest": "rest of the server",
}
_RANK: Final = {"VALID": 0, "FLAGGED": 1, "INVALID": 2}


def count(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.0f}"


def figure(value: float | None) -> str:
    """Three digits or so: 0.754, 8.01, 12.3, 1,234."""
    if value is None:
        return ABSENT
    size = abs(float(f"{value:.3g}"))  # 0.9999 is 1.00, not 1.000
    digits = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def bounds(latency_ms: Mapping[str, Any], name: str) -> str:
    """The percentile's confidence bounds, `12.0 to 12.5`; an open side is told as such."""
    low, high = latency_ms["low"][name], latency_ms["high"][name]
    if low is None and high is None:
        return ABSENT
    return f"{figure(low)} to {figure(high)}" if high is not None else f"{figure(low)} or more"


def of_witness(value: Any) -> str:
    """A witness's figure: exact, or the [low, high] of the bucket that it lies in."""
    if isinstance(value, list):
        low, high = value
        return f"{figure(low)} to {figure(high)}" if high is not None else f"over {figure(low)}"
    return figure(value)


def verdict(runs: list[Mapping[str, Any]]) -> str:
    """The campaign's verdict is its worst run's; a campaign without runs has nothing to trust."""
    return max((str(one["verdict"]) for one in runs), key=_RANK.__getitem__, default="INVALID")


def agreement(run: Mapping[str, Any]) -> str:
    """The witnesses' counts over the whole run in a line, the balancer's log among them where it differs.

    Counts may differ and yet agree, when each missing request is accounted for: then no sign stands between them.
    """
    seen = {name: witness["requests"] for name, witness in run["witnesses"].items() if witness}
    rows = run["reconcile"].get("balancer_rows")
    if rows != seen.get("balancer"):
        seen["balancer's log"] = rows
    differ = " ≠ " if run["reconcile"]["differences"] else ", "
    words, last = "", None
    for name, number in seen.items():
        words += (" = " if number == last else differ) if words else ""
        words, last = f"{words}{name} {count(number)}", number
    return words


def load(spec: Mapping[str, Any]) -> str:
    """What was offered, in a line."""
    plan = spec.get("load", {})
    clients, processes = plan.get("clients", 0), plan.get("processes", 1)
    words = [
        f"{clients:,} client{'s' * (clients != 1)} in {processes} process{'es' * (processes != 1)}",
        loop(spec),
        {"grpc": "gRPC", "rest": "REST"}.get(plan.get("protocol", ""), ""),
        "direct" if plan.get("via") == "direct" else "through the balancer",
        f"batch {plan.get('batch', 1)}",
    ]
    return ", ".join(word for word in words if word)


def loop(spec: Mapping[str, Any]) -> str:
    """`closed loop`, or `open loop, poisson 200/s`."""
    plan = spec.get("load", {})
    arrivals = plan.get("arrivals", "closed")
    if arrivals == "closed":
        return "closed loop"
    rates = [rate for rate, _ in plan.get("steps", [])] or [plan.get("rate_rps")]
    if rates == [None]:
        return f"open loop, {arrivals}"
    told = f"{rates[0]:g}" if len(rates) == 1 else f"{min(rates):g} to {max(rates):g}"
    return f"open loop, {arrivals} {told}/s"


def anchor(spec: Mapping[str, Any]) -> str:
    """From when to when a latency runs."""
    is_open = spec.get("load", {}).get("arrivals", "closed") != "closed"
    return "planned to received" if is_open else "sent to received"


def change(trend: Mapping[str, Any] | None) -> str:
    """A trend's change along the window with its bounds."""
    if trend is None:
        return "too few blocks"
    return f"{trend['change']:+.0%} (99 % bounds {trend['low']:+.0%} to {trend['high']:+.0%})"


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
