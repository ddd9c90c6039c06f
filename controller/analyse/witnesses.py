"""The three witnesses of a run: what client, balancer and server counted and timed, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from controller import rundir
from controller.analyse import statistics
from controller.analyse.population import Ints, Records, Window
from controller.analyse.reconcile import MAYBE_UNSENT, BalancerLog, balancer_log, matching, reconcile
from controller.analyse.scrapes import Edges, Scrapes

INTERFACE: Final = {"grpc": "gRPC", "rest": "REST"}
WHOLE_RUN: Final = Edges()


def testimony(
    run: Path,
    load: Mapping[str, Any],
    has_metrics: bool,
    records: Records,
    latency_ms: Mapping[str, Any],
    window: Window,
) -> dict[str, Any]:
    """`witnesses`, `reconcile`, `breakdown_ms` of a RUN, and `unaccounted`: what of the window only the balancer knows.

    `latency_ms` is the client's; `has_metrics` is False for a server that is known to show none.
    """
    protocol, samples = load.get("protocol", "grpc"), rundir.read_samples(run)
    edges, scrapes = Edges(window.start / 1e9, window.end / 1e9), Scrapes(samples, "server")
    seen: dict[str, dict[str, Any] | None] = {
        "client": {"requests": len(records), "latency_ms": _without_bounds(latency_ms)},
        "balancer": None,
        "server": server(scrapes, protocol, edges) if has_metrics else None,
    }
    log, counter, unsure = None, None, 0
    if load.get("via", "balancer") == "balancer":
        log, balancer_ns = _balancer(run, records)
        counter = _balancer_count(samples, protocol)
        seen["balancer"] = {"requests": counter, "latency_ms": _without_bounds(statistics.latency_ms(balancer_ns))}
    else:
        unsure = pc.sum(pc.is_in(records.status, value_set=pa.array(MAYBE_UNSENT))).as_py() or 0
    served = seen["server"]["requests"] if seen["server"] else None
    means = {name: witness["latency_ms"]["mean"] if witness else None for name, witness in seen.items()}
    return {
        "witnesses": seen,
        "reconcile": reconcile(len(records), log, counter, served, unsure, has_metrics),
        "breakdown_ms": breakdown_ms(means, server_parts_ms(scrapes, edges)),
        "unaccounted": log.unmatched.get("measure", 0) if log else 0,
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
    """Where a request's mean time goes, in ms: parts that add up to the client's mean; null where a witness is missing.

    `balancer` holds the network between balancer and server; a direct run has none, and there `client_network` reaches
    to the server. The witnesses' windows differ by the requests at their edges, so that a tiny part can fall below 0.
    """
    balancer, inner = means["balancer"], means["server"]
    queue, inference = server_parts["server_queue"], server_parts["inference"]
    return {
        "client_network": _minus(means["client"], inner if balancer is None else balancer),
        "balancer": _minus(balancer, inner),
        "server_queue": queue,
        "inference": inference,
        "server_rest": _minus(_minus(inner, queue), inference),
    }


def _balancer(run: Path, records: Records) -> tuple[BalancerLog, Ints]:
    """The balancer's log beside the records, and its latency in ns of the good requests of the window."""
    ids = rundir.read_requests(run, ["id"])["id"]
    rows = rundir.read_balancer(run, ["id", "accepted_us", "end_us", "termination", "server"])
    match = matching(ids, rows["id"])
    found = match[records.measured & records.good]
    found = found[found >= 0]
    latency_us = rows["end_us"].to_numpy()[found] - rows["accepted_us"].to_numpy()[found]
    return balancer_log(match, records.status, rows), latency_us * 1000


def _balancer_count(samples: pa.Table, protocol: str) -> int | None:
    scrapes = Scrapes(samples, "balancer")
    count = scrapes.growth("haproxy_backend_http_requests_total", WHOLE_RUN, proxy=f"{protocol}_infer")
    return None if count is None else round(count)


def _mean_ms(scrapes: Scrapes, name: str, window: Edges, **labels: str) -> float | None:
    total, count = (scrapes.growth(f"{name}_{part}", window, **labels) for part in ("sum", "count"))
    return total / count / 1000 if total is not None and count else None


def _without_bounds(latency_ms: Mapping[str, Any]) -> dict[str, Any]:
    """A witness's latency is for comparing; the bounds stand with the run's own."""
    return {key: value for key, value in latency_ms.items() if key not in ("low", "high", "confidence")}


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
