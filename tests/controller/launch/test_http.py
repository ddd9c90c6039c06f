"""The readiness checks' GET: what counts as an answer, and that no proxy is asked."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from loadproof.launch import http as launch_http


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 503)
        self.end_headers()
        self.wfile.write(b"yes")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_only_a_200_is_an_answer(address: str) -> None:
    assert launch_http.get(f"http://{address}/ready") == "yes"
    assert launch_http.get(f"http://{address}/other") is None


def test_the_environments_proxy_is_not_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert launch_http.get(f"http://{address}/ready") == "yes"


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://127.0.0.1:1/a b", "http://[::1/", "no URL"])
def test_what_is_no_url_is_no_answer(url: str) -> None:
    assert launch_http.get(url) is None


def test_a_port_that_speaks_something_else_is_no_answer() -> None:
    def greet() -> None:
        with listener.accept()[0] as client:
            client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            client.recv(1024)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, daemon=True).start()
        assert launch_http.get(f"http://127.0.0.1:{listener.getsockname()[1]}/") is None
