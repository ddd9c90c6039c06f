"""The clients' page for Prometheus: what the master knows of a run while it goes on, to watch only.

A page costs the master 2 ms of CPU; the load is made by other processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import gevent
from gevent.pywsgi import WSGIServer
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from loadproof_clients.load.fleet import Node, NodeState
from loadproof_clients.load.live import Histogram, Live
from loadproof_clients.load.run_state import Phase, RunState

PREFIX: Final = "loadproof_client_"
WATCHED_S: Final = 3.0  # who scraped within it is waited for when the run ends
LINGER_S: Final = 3.0

# Of each worker that is not lost: name, help, and where it is known, the value.
_BY_WORKER: Final[tuple[tuple[str, str, Callable[[Node], float | None]], ...]] = (
    ("clients", "Clients of the worker.", lambda node: node.clients),
    ("connections", "TCP connections now open.", lambda node: node.counts["connections"]),
    ("requests_in_flight", "Requests sent and not ended.", lambda node: node.counts["in_flight"]),
    ("worker_cpu_ratio", "CPU over the last second, of one core.", lambda node: _reported(node, "cpu_percent", 0.01)),
    ("worker_resident_memory_bytes", "Resident memory.", lambda node: _reported(node, "rss_bytes", 1)),
    ("worker_loop_lag_seconds", "Longest wait of the event loop.", lambda node: _reported(node, "lag_ms", 0.001)),
)


class Exporter(Collector):
    """Renders a run: what is counted in `live`, its workers, and the phase that it is in."""

    def __init__(self, run: RunState) -> None:
        self.live = Live(run.spec.load.protocol)
        self._run, self._spec = run, run.spec
        self._scraped_s = float("-inf")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def serve(self, host: str, port: int) -> int:
        """Serves /metrics from now on; returns the port (0: a free one is taken). OSError: it cannot be had."""
        server = WSGIServer((host, port), self._answer, log=None)
        server.start()
        return int(server.server_port)

    def linger(self) -> None:
        """Where someone watches, waits until they have scraped once more: the last second counts for them too."""
        now_s = time.monotonic()
        if now_s - self._scraped_s < WATCHED_S:
            while self._scraped_s < now_s and time.monotonic() < now_s + LINGER_S:
                gevent.sleep(0.02)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        began_s = time.monotonic()
        yield from make_wsgi_app(self._registry)(environ, start_response)
        self._scraped_s = began_s  # the whole page went out

    def collect(self) -> Iterator[Metric]:
        """Every metric family, as prometheus_client asks for them."""
        yield from self._run_facts()
        yield from self._requests()
        nodes = list(self._run.nodes.values())
        workers = GaugeMetricFamily(PREFIX + "workers", "Load-generating processes.", labels=["state"])
        for state in NodeState:
            workers.add_metric([state.name.lower()], sum(node.state is state for node in nodes))
        yield workers
        for name, text, read in _BY_WORKER:
            family = GaugeMetricFamily(PREFIX + name, text, labels=["worker"])
            for node in nodes:
                if node.state is not NodeState.LOST and (value := read(node)) is not None:
                    family.add_metric([str(node.number)], value)
            yield family

    def _run_facts(self) -> Iterator[Metric]:
        load = self._spec.load
        facts = {"run": self._spec.run, "model": self._spec.model}
        keys = {"api", "protocol", "transport", "via", "arrivals", "clients"}
        facts |= {key: str(value) for key, value in load.model_dump(include=keys).items()}
        info = GaugeMetricFamily(PREFIX + "run_info", "What the run is, in its labels; always 1.", labels=list(facts))
        info.add_metric(list(facts.values()), 1)
        yield info
        phases = GaugeMetricFamily(PREFIX + "phase", "1 for the phase that the run is in.", labels=["phase"])
        now = self._run.phase()
        for phase in Phase:
            phases.add_metric([phase], phase == now)
        yield phases

    def _requests(self) -> Iterator[Metric]:
        model = self._spec.model
        requests = CounterMetricFamily(
            PREFIX + "requests", "Requests that ended, or were due and not sent.", labels=["model", "phase", "outcome"]
        )
        for (phase, outcome), count in self.live.requests.items():
            requests.add_metric([model, phase, outcome], count)
        yield requests
        failures = CounterMetricFamily(PREFIX + "failures", "Failed requests by status.", labels=["model", "status"])
        for status, count in self.live.failures.items():
            failures.add_metric([model, status], count)
        yield failures
        due = "they were due" if self._spec.load.is_open else "they were sent"
        yield _histogram(
            "latency_seconds", f"Good answers, from when {due} to the last byte.", model, self.live.latency
        )
        yield _histogram("lateness_seconds", "Sent less due, of all that were sent.", model, self.live.lateness)


def _histogram(name: str, text: str, model: str, histogram: Histogram) -> Metric:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds_s), "+Inf"]
    family = HistogramMetricFamily(PREFIX + name, text, labels=["model"])
    family.add_metric([model], list(zip(bounds, histogram.counts.cumsum().tolist(), strict=True)), histogram.sum_s)
    return family


def _reported(node: Node, key: str, factor: float) -> float | None:
    value = node.health.get(key)
    return None if value is None else value * factor
