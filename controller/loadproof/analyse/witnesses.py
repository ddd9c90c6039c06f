"""The three witnesses of a run: what client, balancer and server counted and timed, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from loadproof import rundir
from loadproof.analyse import statistics
from loadproof.analyse.accounts import accounts
from loadproof.analyse.join import join
from loadproof.analyse.population import Ints, Records, Window
from loadproof.analyse.reconcile import MAYBE_UNSENT, BalancerLog, Circumstances, Counters, balancer_log, reconcile
from loadproof.analyse.schema import (
    Account,
    Breakdown,
    BucketLatency,
    Interference,
    Latency,
    Reconciliation,
    ServerWitness,
    Witness,
    Witnesses,
)
from loadproof.analyse.scrapes import Edges, Scrapes
from loadproof_clients.apis import APIS, PROTOCOLS
from loadproof_server.dataplane.metric_names import (
    INFERENCE_TIME_US,
    REQUEST_TIME_US,
    REQUESTS_FAIL,
    REQUESTS_SUCCESS,
    WAIT_FOR_INFER_REQ_TIME_US,
)

Facts = Mapping[str, Any]

WHOLE_RUN: Final = Edges()
FORWARDED: Final = "haproxy_backend_http_requests_total"


@dataclass(frozen=True)
class Observed:
    """What the witnesses of a run saw, and how their counts add up.

    `unaccounted` and `lost_with_worker` are requests of the window that only the balancer knows.
    """

    witnesses: Witnesses
    reconcile: Reconciliation
    interference: Interference | None
    accounts: list[Account]
    breakdown_ms: Breakdown
    unaccounted: int
    lost_with_worker: int


def observe(
    run: Path, facts: Facts, load: Facts, samples: pa.Table, records: Records, service_ms: Latency, window: Window
) -> Observed:
    """What each witness saw of the run in the directory `run`.

    `facts` is run.json, `samples` what was scraped, `service_ms` the client's latency from the sent time, in an open
    loop as well: no other witness knows when a request was planned.
    """
    api, protocol = load.get("api", "kserve"), load.get("protocol", "grpc")
    backend = APIS[api].carriers[protocol].backend
    edges, scrapes = Edges(window.start / 1e9, window.end / 1e9), Scrapes(samples, "server")
    known = _circumstances(facts, samples)
    of_server = server(scrapes, api, protocol, edges) if known.server_has_metrics else None
    counters = Counters(server=of_server.requests if of_server else None)
    log, of_balancer, unsure = None, None, 0
    if load.get("via", "balancer") == "balancer":
        log, balancer_ns = _balancer(run, records, _incomplete(facts))
        counters = replace(counters, **_balancer_counters(samples, backend))
        latency_ms = statistics.latency_ms(balancer_ns).without_bounds()
        of_balancer = Witness(requests=counters.balancer, latency_ms=latency_ms)
    else:
        unsure = int(records.status_in(MAYBE_UNSENT).sum())
    client = Witness(requests=records.sent, latency_ms=service_ms.without_bounds())
    witnesses = Witnesses(client=client, balancer=of_balancer, server=of_server)
    terms = reconcile(records.sent, log, counters, unsure, known)
    good = records.measured & records.good
    lateness_ms = float(records.lateness_ns(good).mean()) / 1e6 if good.any() else None
    return Observed(
        witnesses,
        terms,
        interference=_interference(run, samples, protocol, backend, log) if log else None,
        accounts=accounts(records, log, terms, facts.get("planned")),
        breakdown_ms=breakdown(witnesses, lateness_ms, *server_parts_ms(scrapes, edges)),
        unaccounted=log.unaccounted.get("measure", 0) if log else 0,
        lost_with_worker=log.lost_with_worker.get("measure", 0) if log else 0,
    )


def server(scrapes: Scrapes, api: str, protocol: str, window: Edges) -> ServerWitness | None:
    """The server's count of the whole run and its latency inside the `window`; None where it showed no counters.

    The mean is exact (the histogram's sum over its count, in OVMS's microseconds); a percentile is the [low, high] of
    its bucket.
    """
    own = {"interface": PROTOCOLS[protocol]}
    infer = {**own, **APIS[api].metric_labels}
    success, fail = (scrapes.growth(name, WHOLE_RUN, **infer) for name in (REQUESTS_SUCCESS, REQUESTS_FAIL))
    if success is None:
        return None
    upper, cumulative = scrapes.histogram(REQUEST_TIME_US, window, **own)
    latency_ms = BucketLatency(
        mean=_mean_ms(scrapes, REQUEST_TIME_US, window, **own),
        **{name: statistics.bucket(upper / 1000, cumulative, p) for name, p in statistics.PERCENTILES.items()},
    )
    return ServerWitness(requests=round(success + (fail or 0)), failed=round(fail or 0), latency_ms=latency_ms)


def server_parts_ms(scrapes: Scrapes, window: Edges) -> tuple[float | None, float | None]:
    """Mean time inside the server of a request of the window, in ms: waiting for an infer request, and inference."""
    return _mean_ms(scrapes, WAIT_FOR_INFER_REQ_TIME_US, window), _mean_ms(scrapes, INFERENCE_TIME_US, window)


def breakdown(
    witnesses: Witnesses, lateness_ms: float | None, queue_ms: float | None, inference_ms: float | None
) -> Breakdown:
    """Where a request's mean time goes, in ms: parts that add up to the client's mean from sent to received.

    A part is null where a witness is missing. `balancer_network` is HAProxy's own work and the network between it and
    the server; a direct run has none, and there `client_network` reaches to the server. The witnesses' windows differ
    by the requests at their edges, so that a tiny part can fall below 0.
    """
    balancer = witnesses.balancer.latency_ms.mean if witnesses.balancer else None
    inner = witnesses.server.latency_ms.mean if witnesses.server else None
    return Breakdown(
        lateness=lateness_ms,
        client_network=_minus(witnesses.client.latency_ms.mean, inner if balancer is None else balancer),
        balancer_network=_minus(balancer, inner),
        server_queue=queue_ms,
        inference=inference_ms,
        server_rest=_minus(_minus(inner, queue_ms), inference_ms),
    )


def _circumstances(facts: Facts, samples: pa.Table) -> Circumstances:
    events = {event["code"] for event in facts.get("events", [])}
    counters = {"server": REQUESTS_SUCCESS, "balancer": FORWARDED}
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


def _interference(run: Path, samples: pa.Table, protocol: str, backend: str, log: BalancerLog) -> Interference:
    """What the balancer did with requests but pass them on, over the whole run; `full`: it took no more connections."""
    scrapes, proxy = Scrapes(samples, "balancer"), {"proxy": backend}

    def grown(name: str) -> int:
        return round(scrapes.growth(f"haproxy_backend_{name}", WHOLE_RUN, **proxy) or 0)

    rows = rundir.read_balancer(run, ["retries"])
    return Interference(
        retried=max(int((rows["retries"].to_numpy() > 0).sum()), grown("retry_warnings_total")),
        redispatched=grown("redispatch_warnings_total"),
        queued=grown("max_queue"),
        answered_itself=log.answered_itself,
        full=int(_full(scrapes, protocol)),
    )


def _full(scrapes: Scrapes, protocol: str) -> bool:
    """Whether its connections once reached the limit of the process, or the frontend's.

    At its limit HAProxy takes no scrape either: what it reports afterwards, the most at once since its start, shows it.
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


def _balancer_counters(samples: pa.Table, backend: str) -> dict[str, int | None]:
    scrapes = Scrapes(samples, "balancer")
    names = {"balancer": FORWARDED, "sessions": "haproxy_backend_sessions_total"}
    grown = {key: scrapes.growth(name, WHOLE_RUN, proxy=backend) for key, name in names.items()}
    return {key: None if count is None else round(count) for key, count in grown.items()}


def _mean_ms(scrapes: Scrapes, name: str, window: Edges, **labels: str) -> float | None:
    total, count = (scrapes.growth(f"{name}_{part}", window, **labels) for part in ("sum", "count"))
    return total / count / 1000 if total is not None and count else None


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
