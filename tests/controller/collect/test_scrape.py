"""Scraping, from a real HTTP server whose page changes as a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from loadproof.collect import scrape
from loadproof.collect.scrape import Scraper
from loadproof.rundir import SAMPLES

OVMS = """\
# HELP ovms_requests_success Number of successful requests.
# TYPE ovms_requests_success counter
ovms_requests_success{api="KServe",interface="gRPC",method="ModelInfer",name="m",version="1"} %d
# TYPE ovms_inference_time_us histogram
ovms_inference_time_us_bucket{name="m",version="1",le="10"} 3
ovms_inference_time_us_sum{name="m",version="1"} 12.5
# TYPE python_gc_objects counter
python_gc_objects_total 7
"""


class Pages:
    """Serves its pages in turn, the last one for ever; a page that is None is a 503."""

    def __init__(self) -> None:
        self.pages: list[str | None] = [OVMS % 1]
        self.served = 0
        own = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = own.pages[min(own.served, len(own.pages) - 1)]
                own.served += 1
                self.send_response(503 if page is None else 200)
                self.end_headers()
                self.wfile.write((page or "").encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def pages() -> Iterator[Pages]:
    served = Pages()
    yield served
    served.close()


def test_the_rows_of_a_scrape_share_its_time(pages: Pages) -> None:
    pages.pages = [OVMS % 1, OVMS % 2]
    scraper = Scraper({"server": pages.url, "balancer": None})
    before_ns = time.monotonic_ns()
    scraper.scrape()
    scraper.scrape()
    after_s = (time.monotonic_ns() - before_ns) / 1e9
    table = scraper.table(before_ns)
    assert table.schema == SAMPLES
    rows = table.to_pylist()
    times = sorted({row["time"] for row in rows})
    assert len(rows) == 6 and len(times) == 2
    assert 0 <= times[0] < times[1] <= after_s
    assert [row["time"] for row in rows] == [times[0]] * 3 + [times[1]] * 3
    assert [row["value"] for row in rows if row["name"] == "ovms_requests_success"] == [1, 2]
    assert {row["source"] for row in rows} == {"server"}


def test_no_scrape_at_all_is_an_empty_table() -> None:
    scraper = Scraper({"server": None, "balancer": None})
    assert scraper.scrape() == {}
    assert scraper.until_agreed()
    assert (scraper.table(0).num_rows, scraper.table(0).schema) == (0, SAMPLES)


def test_a_failed_scrape_is_noted_and_the_next_one_counts(pages: Pages) -> None:
    pages.pages = [None, "ovms_streams{", OVMS % 1]
    scraper = Scraper({"server": pages.url, "balancer": "http://127.0.0.1:1/metrics"})
    assert [scraper.scrape()["server"] is None for _ in range(3)] == [True, True, False]
    assert [failure.source for failure in scraper.failures].count("server") == 2
    assert [failure.source for failure in scraper.failures].count("balancer") == 3
    assert "503" in scraper.failures[0].message and pages.url in scraper.failures[0].message
    assert scraper.table(0).num_rows == 3


def test_a_page_without_an_end_is_refused(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "ANSWER_BYTES_MAX", 100)
    scraper = Scraper({"server": pages.url})
    assert scraper.scrape() == {"server": None}
    assert "over 100 bytes" in scraper.failures[0].message


def test_until_agreed_waits_for_counters_that_still_move(pages: Pages) -> None:
    pages.pages = [OVMS % 1, OVMS % 2, None, OVMS % 3, OVMS % 3]
    scraper = Scraper({"server": pages.url})
    assert scraper.until_agreed(pause_s=0.01)
    assert pages.served == 5


def test_until_agreed_gives_up_in_time(pages: Pages) -> None:
    pages.pages = [OVMS % number for number in range(10_000)]
    assert not Scraper({"server": pages.url}).until_agreed(timeout_s=0.3, pause_s=0.05)
    assert not Scraper({"server": "http://127.0.0.1:1/metrics"}).until_agreed(timeout_s=0.3, pause_s=0.05)


def test_following_scrapes_at_intervals_and_at_the_edges_until_the_end(pages: Pages) -> None:
    scraper = Scraper({"server": pages.url})
    t0_ns = time.monotonic_ns() + 200_000_000
    scraper.follow(t0_ns, edges_s=(0.25, 0.65), interval_s=0.4)
    time.sleep(1.3)
    assert scraper.until_agreed(pause_s=0.01)
    served = pages.served
    times = sorted(set(scraper.table(t0_ns)["time"].to_pylist()))
    # A loaded machine is late, never early, and may skip a beat.
    assert times[0] >= 0 and served >= 4
    assert any(0.25 <= at < 0.4 or at >= 0.65 for at in times)
    time.sleep(0.5)
    assert pages.served == served
    assert scraper.failures == []


def test_ctrl_c_does_not_wait_for_a_page_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stop` finishes the scrape under way: it has a time in all, however many bytes come."""
    monkeypatch.setattr(scrape, "TIMEOUT_S", 1)

    def dribble() -> None:
        with listener.accept()[0] as sock, contextlib.suppress(OSError):
            for _ in range(300):
                sock.sendall(b"H")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=dribble, daemon=True).start()
        scraper = Scraper({"server": f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"})
        scraper.follow(time.monotonic_ns(), interval_s=0.1)
        time.sleep(0.5)
        began_s = time.monotonic()
        scraper.stop()
        assert time.monotonic() - began_s < 3
    assert "not whole when its time was over" in next(iter(scraper.bounds_met))
