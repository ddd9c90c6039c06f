"""The clients' live metrics: what a Prometheus sees while the load programs run is what their records say."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadproof_clients.load.live import LATENCY_BOUNDS_S, OUTCOMES, Live
from loadproof_clients.records import CONNECTION, OK, PHASES, RECORD, UNSENT
from tests.clients.load_run import Records, Run

OPEN = {"arrivals": "constant", "rate_rps": 150.0, "clients": 4, "processes": 2, "max_in_flight": 6}
STAGES = ["arming", "warmup", "measure", "drain"]
Page = dict[tuple[str, ...], float]


class Watcher:
    """Scrapes a master's page five times a second until it is gone; `pages` are what it saw."""

    def __init__(self, run: Run) -> None:
        self._url = f"http://127.0.0.1:{run.events[0]['metrics']}/metrics"
        self.pages: list[Page] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                with urllib.request.urlopen(self._url, timeout=10) as answer:
                    self.pages.append(read(answer.read().decode()))
            except OSError:
                return
            time.sleep(0.2)

    def last(self) -> Page:
        self._thread.join(timeout=30)
        return self.pages[-1]


def read(text: str) -> Page:
    """Samples by name without the prefix and label values in the order of their names."""
    return {
        (sample.name.removeprefix("loadproof_client_"), *(value for _, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def outcomes(rows: Records) -> dict[str, npt.NDArray[np.bool_]]:
    wrong = (rows["status"] == OK) & rows["verified"] & ~rows["correct"]
    unsent = rows["status"] == UNSENT
    good = (rows["status"] == OK) & ~wrong
    return dict(zip(OUTCOMES, (good, wrong, ~good & ~wrong & ~unsent, unsent), strict=True))


def test_the_last_page_is_what_the_records_say(new_run: Callable[..., Run]) -> None:
    server = ["--delay-ms", "40", "--every", "7", "--lies", "error", "wrong", "drop"]
    run = new_run("rest", server, OPEN, {"warmup_s": 1, "duration_s": 3, "drain_s": 3}).begin(
        "--metrics", "0", workers=2
    )
    watcher = Watcher(run)
    assert run.finish() == 0
    page, rows = watcher.last(), np.concatenate([run.records(1), run.records(2)])
    for outcome, chosen in outcomes(rows).items():
        assert chosen.any()
        for phase in ("warmup", "measure"):
            count = int((chosen & (rows["phase"] == PHASES.index(phase))).sum())
            assert page["requests_total", "double", outcome, phase] == count
    assert page["failures_total", "double", "4xx"] == (rows["status"] == 429).sum() > 0
    assert page["failures_total", "double", "connection"] == (rows["status"] == CONNECTION).sum() > 0
    good, sent = rows[outcomes(rows)["ok"]], rows[rows["status"] != UNSENT]
    latency_s = (good["received_ns"] - good["planned_ns"]) / 1e9
    assert page["latency_seconds_count", "double"] == len(good)
    assert page["latency_seconds_sum", "double"] == pytest.approx(latency_s.sum())
    for bound_s in LATENCY_BOUNDS_S:
        assert page["latency_seconds_bucket", f"{bound_s:g}", "double"] == (latency_s <= bound_s).sum()
    assert page["lateness_seconds_count", "double"] == len(sent)
    assert page["lateness_seconds_sum", "double"] == pytest.approx((sent["sent_ns"] - sent["planned_ns"]).sum() / 1e9)


def test_pages_follow_the_run(new_run: Callable[..., Run]) -> None:
    run = new_run("grpc", ["--delay-ms", "20"], {"processes": 2}, {"warmup_s": 1, "duration_s": 3, "drain_s": 3})
    watcher = Watcher(run.begin("--metrics", "0", workers=2))
    assert run.finish() == 0
    assert watcher.last()["workers", "done"] == 2
    (info,) = [labels for name, *labels in watcher.pages[0] if name == "run_info"]
    assert info[:5] == ["kserve", "closed", "4", "double", "grpc"]
    phases = [phase for page in watcher.pages for phase in STAGES if page["phase", phase]]
    assert len(phases) == len(watcher.pages) and list(dict.fromkeys(phases)) == STAGES
    answered = [page["requests_total", "double", "ok", "measure"] for page in watcher.pages]
    assert answered == sorted(answered) and len(set(answered)) > 4
    in_flight = [page.get(("requests_in_flight", "1"), 0) for page in watcher.pages]
    assert max(in_flight) == 2 and in_flight[-1] == 0
    assert any(page.get(("worker_cpu_ratio", "2"), 0) > 0.005 for page in watcher.pages)
    assert watcher.pages[-1]["clients", "1"] == watcher.pages[-1]["clients", "2"] == 2
    assert watcher.pages[-1]["worker_resident_memory_bytes", "1"] > 1e7


def test_a_lost_workers_records_count_and_its_gauges_go(new_run: Callable[..., Run]) -> None:
    run = new_run("grpc", ["--delay-ms", "5"], {"processes": 2}, {"warmup_s": 0, "duration_s": 4, "drain_s": 3})
    watcher = Watcher(run.begin("--metrics", "0", workers=2))
    run.until("progress", phase="measure")
    os.kill(run.processes["worker0"].pid, signal.SIGKILL)
    lost = run.until("worker_lost")["worker"]
    assert run.finish() == 1
    page, rows = watcher.last(), np.concatenate([run.records(1), run.records(2)])
    assert page["requests_total", "double", "ok", "measure"] == outcomes(rows)["ok"].sum()
    assert page["workers", "lost"] == page["workers", "done"] == 1
    assert ("requests_in_flight", str(lost)) not in page


def test_where_nobody_watches_nobody_is_waited_for(new_run: Callable[..., Run]) -> None:
    run = new_run("grpc", [], {}, {"warmup_s": 0, "duration_s": 1, "drain_s": 3}).begin("--metrics", "0")
    run.until("end")
    ended_s = time.monotonic()
    assert run.finish() == 0
    assert time.monotonic() - ended_s < 2


def test_a_busy_port_is_told_before_anything_starts(new_run: Callable[..., Run]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        run = new_run("grpc", [], {}, {}).master("--metrics", str(port))
        said = run.until("error")
    assert said["message"].startswith(f"--metrics {port}: 127.0.0.1 Address already in use")
    assert run.processes["master"].wait(20) == 1


def test_a_piece_of_records_may_be_empty_or_of_one_row() -> None:
    live, row = Live("grpc"), np.zeros(1, RECORD)
    row["received_ns"], row["phase"], row["status"] = 66_800_000_000, PHASES.index("measure"), OK
    live.add(b"")
    live.add(row.tobytes())
    assert live.requests["measure", "ok"] == 1 and live.latency.counts[-1] == 1
