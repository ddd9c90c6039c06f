"""Pages of servers that dribble, never end, or send the controller elsewhere; and what a scrape makes of them."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadproof import analyse, report
from loadproof.collect import metrics_text, pages
from loadproof.collect.scrape import VALUE_MAX, Scraper
from loadproof.launch import balancer, http, questions
from loadproof_clients.apis import APIS
from tests.controller import synthetic

OK = b"HTTP/1.1 200 OK\r\n"
Script = Callable[[socket.socket], None]


@contextlib.contextmanager
def served(script: Script) -> Iterator[str]:
    """host:port of a server that plays the script to every connection, after its request came."""

    def play(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.recv(1 << 16)
            script(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=play, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def dribble(head: bytes) -> Script:
    def script(sock: socket.socket) -> None:
        for at in range(1000):
            sock.sendall(head[at : at + 1] or b"x")
            time.sleep(0.1)

    return script


def flood(head: bytes, piece: bytes) -> Script:
    def script(sock: socket.socket) -> None:
        sock.sendall(head)
        while True:
            sock.sendall(piece)

    return script


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 990, OK + b"\r\n"], ids=["line", "head", "body"]
)
def test_a_byte_at_a_time_ends_with_the_time(head: bytes) -> None:
    with served(dribble(head)) as address:
        began_s = time.monotonic()
        with pytest.raises(pages.TooSlow):
            pages.fetch(f"http://{address}/", 0.5)
        assert time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (OK + b"\r\n", bytes(100_000)),
        (OK + b"Content-Length: 99999999999\r\n\r\n", bytes(100_000)),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n", bytes(100_000)),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (OK, b"x: y\r\n" * 100),
        (OK + b"x: ", b"x" * 1000),
    ],
)
def test_what_never_ends_is_refused(head: bytes, piece: bytes) -> None:
    with served(flood(head, piece)) as address:
        began_s = time.monotonic()
        with pytest.raises(pages.ERRORS):
            pages.fetch(f"http://{address}/", 3, bytes_max=1_000_000)
        assert time.monotonic() - began_s < 6


def test_an_answer_leads_to_no_other_protocol_and_not_round_and_round() -> None:
    for where in ("file:///etc/hostname", "ftp://127.0.0.1/", "http://%s/"):

        def script(sock: socket.socket, where: str = where) -> None:
            where = where % address if "%" in where else where
            sock.sendall(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())

        with served(script) as address, contextlib.suppress(*pages.ERRORS):
            assert pages.fetch(f"http://{address}/", 3)[0] == 302


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        b'{"name": NaN, "version": "1"}',
        b'{"name": %s}' % (b"9" * 5000),
        b"[]",
        b"3",
        b'{"name": "\\ud800", "version": "1", "m": "\\ud800"}',
    ],
    ids=["nested", "40 levels", "NaN", "huge", "array", "number", "surrogate"],
)
def test_questions_answered_badly_are_not_answered(body: bytes) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    notes: list[str] = []
    with served(script) as address:
        assert questions.about_server(address, APIS["kserve"], notes.append) is None
        assert questions.model_status(address, "m", notes.append) is None
    assert len(notes) == (2 if b"[[" in body else 0)


def test_a_health_answer_a_byte_at_a_time_is_none_and_noted() -> None:
    notes: list[str] = []
    with served(dribble(OK)) as address:
        assert http.get(f"http://{address}/v2/health/ready", notes.append) is None
    assert notes == [f"http://{address}/v2/health/ready: the answer was not whole when its time was over"]


def page(series: int, value: str = "1") -> Script:
    lines = "".join(f'ovms_requests_success{{name="m{n}"}} {value}\n' for n in range(series)).encode()
    return lambda sock: sock.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(lines) + lines)


def test_too_many_series_are_refused_at_once_and_noted() -> None:
    with served(page(300_000)) as address:
        scraper = Scraper({"server": f"http://{address}/metrics"})
        began_s = time.monotonic()
        assert scraper.scrape() == {"server": None}
        assert scraper.table(0).num_rows == 0
        assert time.monotonic() - began_s < 5
    assert list(scraper.bounds_met) == [f"http://{address}/metrics: the page has more than 12,000 series"]


def test_as_many_series_as_allowed_are_collected_in_no_time() -> None:
    with served(page(metrics_text.SERIES_MAX)) as address:
        scraper = Scraper({"server": f"http://{address}/metrics", "balancer": None})
        scraper.scrape()
        began_s = time.monotonic()
        assert scraper.table(0).num_rows == metrics_text.SERIES_MAX
        assert time.monotonic() - began_s < 2
    assert not scraper.bounds_met and not scraper.failures


def test_series_that_are_others_each_time_are_bounded_over_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from loadproof.collect import scrape

    monkeypatch.setattr(scrape, "SERIES_MAX", 100)
    scraper = Scraper({})
    for number in range(5):
        scraper._keep("server", number, {("ovms_streams", f'{{"n": "{number}.{n}"}}'): 1.0 for n in range(50)})
    assert scraper.table(0).num_rows == 100
    assert list(scraper.bounds_met) == ["server: more than 100 series in all: the later ones are left out"]


@pytest.mark.parametrize("value", ["NaN", "+Inf", "1e999", "1e308", "-1e308"])
def test_a_value_that_no_counter_has_is_left_out_and_noted(value: str) -> None:
    with served(page(3, value)) as address:
        scraper = Scraper({"server": f"http://{address}/metrics"})
        scraper.scrape()
        assert scraper.table(0).num_rows == 0
    assert list(scraper.bounds_met) == [
        "server: values that no counter has (not finite, or over 2^63): they are left out"
    ]


def test_a_line_that_takes_the_parser_long_is_refused() -> None:
    began_s = time.monotonic()
    with pytest.raises(ValueError, match="a line of the page is over"):
        metrics_text.parse("ovms_x" + " 1x" * 300_000)
    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize("name", ["ovms_requests_success", "ovms_inference_time_us", "ovms_wait", "haproxy_"])
def test_the_largest_value_that_is_kept_does_not_break_the_report(tmp_path: Path, name: str) -> None:
    made, largest = synthetic.make(), math.nextafter(VALUE_MAX, 0)
    made.samples = [
        (*one[:4], largest if at % 2 and one[1].startswith(name) else one[4]) for at, one in enumerate(made.samples)
    ]
    assert analyse.campaign(synthetic.campaign(tmp_path, [("one", made)])).runs
    report.render(tmp_path)


def test_what_is_no_page_of_haproxys_is_a_balancer_that_is_not_ready() -> None:
    with served(lambda sock: sock.sendall(OK + b"\r\nnot a page of metrics\n")) as address:
        assert not balancer._sees_server(f"http://{address}/metrics")
