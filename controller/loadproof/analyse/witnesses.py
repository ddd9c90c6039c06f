"""The three witnesses of a run: what client, balancer and server counted and timed, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from loadproof import rundir
from loadproof.analyse import statistics
from loadproof.analyse.accounts import accounts
from loadproof.analyse.join import join
from loadproof.analyse.population import Ints, Records, Window
from loadproof.analyse.reconcile import MAYBE_UNSENT, BalancerLog, Circumstances, Counters, balancer_log, reconcile
from loadproof.analyse.scrapes import Edges, Scrapes

Facts = Mapping[str, Any]

INTERFACE: Final = {"grpc": "gRPC", "rest": "REST"}
WHOLE_RUN: Final = Edges()


def testimony(
    run: Path, facts: Facts, load: Facts, samples: pa.Table, records: Records, service_ms: Facts, window: Window
) -> dict[str, Any]:
    """`witnesses`, `reconcile`, `interference`, `accounts`, `breakdown_ms` of a RUN, and `orphans`: requests of the
    window that only the balancer knows, {"unaccounted", "lost_with_worker"}.

    `facts` is run.json, `samples` what was scraped, `service_ms` the client's latency from the sent time, in an open
    loop as well: no other witness knows when a request was planned.
    """
    protocol = load.get("protocol", "grpc")
    edges, scrapes = Edges(window.start / 1e9, window.end / 1e9), Scrapes(samples, "server")
    known = _circumstances(facts, samples)
    good = records.measured & records.good
    seen: dict[str, dict[str, Any] | None] = {
        "client": {"requests": records.sent, "latency_ms": _without_bounds(service_ms)},
        "balancer": None,
        "server": server(scrapes, protocol, edges) if known.server_has_metrics else None,
    }
    log, unsure = None, 0
    counters = Counters(server=seen["server"]["requests"] if seen["server"] else None)
    if load.get("via", "balancer") == "balancer":
        log, balancer_ns = _balancer(run, records, _incomplete(facts))
        counters = replace(counters, **_balancer_counters(samples, protocol))
        balancer_ms = _without_bounds(statistics.latency_ms(balancer_ns))
        seen["balancer"] = {"requests": counters.balancer, "latency_ms": balancer_ms}
    else:
        unsure = int(records.status_in(MAYBE_UNSENT).sum())
    means = {name: witness["latency_ms"]["mean"] if witness else None for name, witness in seen.items()}
    terms = reconcile(records.sent, log, counters, unsure, known)
    return {
        "witnesses": seen,
        "reconcile": terms,
        "interference": _interference(run, samples, protocol, log) if log else None,
        "accounts": accounts(records, log, terms, facts.get("planned")),
        "breakdown_ms": {
            "lateness": float(records.lateness_ns(good).mean()) / 1e6 if good.any() else None,
            **breakdown_ms(means, server_parts_ms(scrapes, edges)),
        },
        "orphans": {
            "unaccounted": log.unaccounted.get("measure", 0) if log else 0,
            "lost_with_worker": log.lost_with_worker.get("measure", 0) if log else 0,
        },
    }


def server(scrapes: Scrapes, protocol: str, window: Edges) -> dict[str, Any] | None:
    """The server's count of the whole run and its latency inside the `window`; None where it showed no counters.

    The mean is exact (the histogram's sum over its count, in OVMS's microseconds); a percentile is the [low, high] of
    its bucket.
    """
    own = {"interface": INTERFACE[protocol]}
    infer = {**own, "method": "ModelInfer"}
    success, fail = (scrapes.growth(f"ovms_requests_{end}", WHOLE_RUN, **infer) for end in ("success", "fail"))
    if success is None:
        return None
    upper, cumulative = scrapes.histogram("ovms_request_time_us", window, **own)
    ranges = {name: statistics.bucket(upper / 1000, cumulative, p) for name, p in statistics.PERCENTILES.items()}
    return {
        "requests": round(success + (fail or 0)),
        "failed": round(fail or 0),
        "latency_ms": {
            "mean": _mean_ms(scrapes, "ovms_request_time_us", window, **own),
            **{name: list(found) if found else None for name, found in ranges.items()},
        },
    }


def server_parts_ms(scrapes: Scrapes, window: Edges) -> dict[str, float | None]:
    """Mean time inside the server of a request of the window, in ms: waiting for an infer request, and inference."""
    return {
        "server_queue": _mean_ms(scrapes, "ovms_wait_for_infer_req_time_us", window),
        "inference": _mean_ms(scrapes, "ovms_inference_time_us", window),
    }


def breakdown_ms(
    means: Mapping[str, float | None], server_parts: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Where a request's mean time goes, in ms: parts that add up to the client's mean from sent to received.

    A part is null where a witness is missing. `balancer_network` is HAProxy's own work and the network between it and
    the server; a direct run has none, and there `client_network` reaches to the server. The witnesses' windows differ
    by the requests at their edges, so that a tiny part can fall below 0.
    """
    balancer, inner = means["balancer"], means["server"]
    queue, inference = server_parts["server_queue"], server_parts["inference"]
    return {
        "client_network": _minus(means["client"], inner if balancer is None else balancer),
        "balancer_network": _minus(balancer, inner),
        "server_queue": queue,
        "inference": inference,
        "server_rest": _minus(_minus(inner, queue), inference),
    }


def _circumstances(facts: Facts, samples: pa.Table) -> Circumstances:
    events = {event["code"] for event in facts.get("events", [])}
    counters = {"server": "ovms_requests_success", "balancer": "haproxy_backend_http_requests_total"}
    return Circumstances(
        load_began=facts.get("t0_epoch_us") is not None,
        server_has_metrics=facts.get("server", {}).get("metrics", True),
        server_died="server_died" in events,
        balancer_died="balancer_died" in events,
        worker_died="worker_died" in events or bool(_incomplete(facts)),
        restarted=[source for source, name in counters.items() if Scrapes(samples, source).restarted(name)],
    )


def _incomplete(facts: Facts) -> list[int]:
    """The workers that did not deliver all their records."""
    return [one["worker"] for one in facts.get("workers", []) if not one.get("complete", True)]


def _balancer(run: Path, records: Records, incomplete: list[int]) -> tuple[BalancerLog, Ints]:
    """The balancer's log beside the records, and its latency in ns of the good requests of the window."""
    joined = join(run)
    log = balancer_log(records, joined, rundir.read_balancer(run, ["termination", "server"]), incomplete)
    found = joined.row[records.measured & records.good]
    found = found[found >= 0]
    rows = rundir.read_balancer(run, ["accepted_us", "end_us"])
    return log, (rows["end_us"].to_numpy()[found] - rows["accepted_us"].to_numpy()[found]) * 1000


def _interference(run: Path, samples: pa.Table, protocol: str, log: BalancerLog) -> dict[str, int]:
    """What the balancer did with requests but pass them on, over the whole run; `full`: it took no more connections."""
    scrapes, proxy = Scrapes(samples, "balancer"), {"proxy": f"{protocol}_infer"}

    def grown(name: str) -> int:
        return round(scrapes.growth(f"haproxy_backend_{name}", WHOLE_RUN, **proxy) or 0)

    rows = rundir.read_balancer(run, ["retries"])
    return {
        "retried": max(int((rows["retries"].to_numpy() > 0).sum()), grown("retry_warnings_total")),
        "redispatched": grown("redispatch_warnings_total"),
        "queued": grown("max_queue"),
        "answered itself": log.answered_itself,
        "full": int(_full(scrapes, protocol)),
    }


def _full(scrapes: Scrapes, protocol: str) -> bool:
    """Whether its connections once reached the limit of the process, or the frontend's.

    At its limit HAProxy takes no scrape either: what it tells afterwards, the most at once since its start, has it.
    """
    frontend = f'{{"proxy": "{protocol}"}}'
    for levels, limits, labels in (
        ("haproxy_process_current_connections", "haproxy_process_max_connections", "{}"),
        ("haproxy_frontend_current_sessions", "haproxy_frontend_limit_sessions", frontend),
    ):
        level, limit = scrapes.series(levels).get(labels), scrapes.series(limits).get(labels)
        if level is not None and limit is not None and level.max() >= limit.max() > 0:
            return True
    most, limit = (scrapes.series(f"haproxy_frontend_{name}_sessions").get(frontend) for name in ("max", "limit"))
    return most is not None and limit is not None and most[-1] > most[0] and most[-1] >= limit[-1] > 0


def _balancer_counters(samples: pa.Table, protocol: str) -> dict[str, int | None]:
    scrapes = Scrapes(samples, "balancer")
    names = {"balancer": "haproxy_backend_http_requests_total", "sessions": "haproxy_backend_sessions_total"}
    grown = {key: scrapes.growth(name, WHOLE_RUN, proxy=f"{protocol}_infer") for key, name in names.items()}
    return {key: None if count is None else round(count) for key, count in grown.items()}


def _mean_ms(scrapes: Scrapes, name: str, window: Edges, **labels: str) -> float | None:
    total, count = (scrapes.growth(f"{name}_{part}", window, **labels) for part in ("sum", "count"))
    return total / count / 1000 if total is not None and count else None


def _without_bounds(latency_ms: Mapping[str, Any]) -> dict[str, Any]:
    """A witness's latency is for comparing; the bounds stand with the run's own."""
    return {key: value for key, value in latency_ms.items() if key not in ("low", "high", "confidence")}


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
