"""Scrapes `/metrics` of server and balancer, and reads the machine; keeps each wanted sample with its time."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loadproof.collect import pages
from loadproof.collect.machine import Machine
from loadproof.collect.metrics_text import SERIES_MAX, Series, parse
from loadproof.rundir import SAMPLES
from loadproof_server.dataplane import metric_names

# What is kept of each source's page: the samples whose names begin so.
WANTED = {
    "server": metric_names.METRICS,
    "balancer": (
        "haproxy_backend_connection_",  # attempts, reuses, errors
        "haproxy_backend_current_queue",
        "haproxy_backend_current_sessions",
        "haproxy_backend_http_",  # requests, responses{code}
        "haproxy_backend_max_queue",
        "haproxy_backend_redispatch_warnings_total",
        "haproxy_backend_retry_warnings_total",
        "haproxy_backend_sessions_total",
        "haproxy_backend_status",
        "haproxy_frontend_connections_total",
        "haproxy_frontend_current_sessions",
        "haproxy_frontend_http_",
        "haproxy_frontend_limit_sessions",
        "haproxy_frontend_max_sessions",
        "haproxy_process_current_connections",
        "haproxy_process_dropped_logs_total",
        "haproxy_process_max_connections",
        "haproxy_server_status",
    ),
}

# What has to stand still before a run's end edge is taken.
COUNTERS = (
    "haproxy_backend_http_requests_total",
    "haproxy_backend_http_responses_total",
    "haproxy_backend_sessions_total",
    metric_names.REQUESTS_FAIL,
    metric_names.REQUESTS_SUCCESS,
)

TIMEOUT_S = 5  # of a whole scrape
ANSWER_BYTES_MAX = pages.PAGE_BYTES_MAX
FAILURES_MAX = 1000
VALUE_MAX = 2.0**63  # differences and sums of larger ones leave the range of what the analysis can write


@dataclass(frozen=True)
class Failure:
    """A scrape that brought nothing."""

    monotonic_ns: int
    source: str
    message: str


class Scraper:
    """All samples of a run. `scrape` may be called while the thread of `follow` scrapes each second."""

    def __init__(self, urls: Mapping[str, str | None], machine: Machine | None = None) -> None:
        """`urls`: the page of "server" and of "balancer", None where there is none; `machine` is read with them."""
        self.failures: list[Failure] = []
        self.bounds_met: dict[str, None] = {}
        self._machine = machine
        self._urls = {source: url for source, url in urls.items() if url}
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def scrape(self) -> dict[str, Mapping[Series, float] | None]:
        """Scrape every source now: its wanted samples, or None where that failed, which `failures` notes."""
        if self._machine:
            now_ns = time.monotonic_ns()
            self._keep("machine", now_ns, self._machine.read())
        return {source: self._scrape(source, url) for source, url in self._urls.items()}

    def follow(self, t0_monotonic_ns: int, edges_s: Sequence[float] = (), interval_s: float = 1.0) -> None:
        """From a thread, scrape at T0, at each interval from it and at the edges (seconds from T0), until `stop`."""
        self._thread = threading.Thread(target=self._run, args=(t0_monotonic_ns, edges_s, interval_s), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what `follow` began; a scrape under way is finished first."""
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def until_agreed(self, timeout_s: float = 10.0, pause_s: float = 0.2) -> bool:
        """`stop`, then scrape until two scrapes in a row show the same COUNTERS: the last one is the end edge.

        False when they still change, or a source still fails, after `timeout_s`.
        """
        self.stop()
        end = time.monotonic() + timeout_s
        before = None
        while True:
            seen = [_counters(samples) for samples in self.scrape().values()]
            if seen == before and None not in seen:
                return True
            before = seen
            if time.monotonic() + pause_s > end:
                return False
            time.sleep(pause_s)

    def table(self, t0_monotonic_ns: int) -> pa.Table:
        """The samples as rundir.SAMPLES, by time; all of one scrape have the time of its middle, in seconds from T0."""
        with self._lock:
            parts = [seen.table(source, t0_monotonic_ns) for source, seen in self._seen.items()]
        return pa.concat_tables([SAMPLES.empty_table(), *parts]).unify_dictionaries().sort_by("time")

    def _scrape(self, source: str, url: str) -> Mapping[Series, float] | None:
        start_ns = time.monotonic_ns()
        try:
            status, page = pages.fetch(url, TIMEOUT_S, bytes_max=ANSWER_BYTES_MAX)
            if status != 200:
                raise ValueError(f"HTTP status {status}")
            seen_ns = (start_ns + time.monotonic_ns()) // 2
            samples = parse(page.decode(), WANTED[source])
        except pages.ERRORS as error:
            if isinstance(error, pages.BoundMet):
                self.bounds_met[f"{url}: {error}"] = None
            if len(self.failures) < FAILURES_MAX:
                self.failures.append(Failure(start_ns, source, f"{url}: {error}"))
            return None
        self._keep(source, seen_ns, samples)
        return samples

    def _keep(self, source: str, seen_ns: int, samples: Mapping[Series, float]) -> None:
        with self._lock:
            seen = self._seen.setdefault(source, _Seen())
            for what in seen.take(seen_ns, samples):
                self.bounds_met[f"{source}: {what}"] = None

    def _run(self, t0_monotonic_ns: int, edges_s: Sequence[float], interval_s: float) -> None:
        while True:
            now_s = (time.monotonic_ns() - t0_monotonic_ns) / 1e9
            next_s = max(0, now_s // interval_s + 1) * interval_s
            next_s = min([next_s, *(edge for edge in edges_s if edge > now_s)])
            if self._stopped.wait(next_s - now_s):
                return
            self.scrape()


class _Seen:
    """The samples of one source: three numbers each, and every series once."""

    def __init__(self) -> None:
        self._series: dict[Series, int] = {}
        self._number, self._time_ns, self._value = array("l"), array("q"), array("d")

    def take(self, time_ns: int, samples: Mapping[Series, float]) -> set[str]:
        """Keeps them; what was left out."""
        left_out = set()
        for series, value in samples.items():
            number = self._series.get(series)
            if number is None and len(self._series) < SERIES_MAX:
                number = self._series[series] = len(self._series)
            if number is None:
                left_out.add(f"more than {SERIES_MAX:,} series in all: the later ones are left out")
                continue
            if not abs(value) < VALUE_MAX:  # NaN neither
                left_out.add("values that no counter has (not finite, or over 2^63): they are left out")
                continue
            self._number.append(number)
            self._time_ns.append(time_ns)
            self._value.append(value)
        return left_out

    def table(self, source: str, t0_ns: int) -> pa.Table:
        """As rundir.SAMPLES."""
        numbers = np.array(self._number, np.int16)
        time_s = (np.array(self._time_ns, np.int64) - t0_ns) / 1e9
        texts = [
            _named(np.zeros(len(numbers), np.int16), [source]),
            *(_named(numbers, parts) for parts in zip(*self._series, strict=True)),
        ]
        texts = texts if self._series else [_named(numbers, []) for _ in range(3)]
        return pa.table([*texts, time_s, np.array(self._value, np.float64)], schema=SAMPLES)


def _named(numbers: NDArray[np.int16], texts: Sequence[str]) -> pa.DictionaryArray:
    """`texts[number]` for each number; of texts that are alike the first stands for all."""
    own = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    places = np.array([own[text] for text in texts], np.int16)
    return pa.DictionaryArray.from_arrays(places[numbers], list(own))


def rows(
    source: str, series: Series, times_ns: array[int] | NDArray[np.int64], t0_ns: int, values: array[float]
) -> pa.Table:
    """One series as rundir.SAMPLES; `times_ns` and `t0_ns` are of one clock."""
    texts = [pa.DictionaryArray.from_arrays(np.zeros(len(values), np.int16), [text]) for text in (source, *series)]
    time_s = (np.array(times_ns) - t0_ns) / 1e9
    return pa.table([*texts, time_s, np.array(values)], schema=SAMPLES)


def _counters(samples: Mapping[Series, float] | None) -> dict[Series, float] | None:
    if samples is None:
        return None
    return {series: value for series, value in samples.items() if series[0] in COUNTERS}
