"""A target: an external server that is not there is an error, and what a server does not say is None."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from loadproof.errors import LoadproofError
from loadproof.launch import target as targets
from loadproof.launch.target import Target
from loadproof_clients.apis import APIS, Api, Questions
from tests.ports import free_ports

KSERVE = APIS["kserve"]
OTHER = Api("another API", {}, Questions("/ready/{model}", "/ask", ready_text='"{model}": "AVAILABLE"'), {})


class Answers(BaseHTTPRequestHandler):
    """Answers a GET with what `pages` holds for its path."""

    pages: dict[str, str]

    def do_GET(self) -> None:
        self.send_response(200 if self.path in self.pages else 404)
        self.end_headers()
        self.wfile.write(self.pages.get(self.path, "").encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[dict[str, str]]:
    """The pages of a server; "address" is where it is."""
    found: dict[str, str] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answers,), {"pages": found}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    found["address"] = f"127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("key", ["rest_address", "address"])
def test_an_external_server_that_is_not_there_is_reported_by_its_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "EXTERNAL_TIMEOUT_S", 0.1)
    port = free_ports(1)[0]
    rest, grpc = (f"127.0.0.1:{port}", None) if key == "rest_address" else (None, f"[::1]:{port}")
    with pytest.raises(LoadproofError, match=rf'^server\.{key} .*: no ready model "a model" there'):
        Target("a model", KSERVE, grpc, rest, None).wait_ready()


def test_readiness_is_asked_as_the_row_of_the_api_says(pages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "EXTERNAL_TIMEOUT_S", 0.1)
    kserve, other = (Target("a model", api, None, pages["address"], None) for api in (KSERVE, OTHER))
    pages["/v2/models/a%20model/ready"] = ""
    pages["/ready/a%20model"] = '{"a model": "LOADING"}'
    kserve.wait_ready()
    with pytest.raises(LoadproofError, match="no ready model"):
        other.wait_ready()
    pages["/ready/a%20model"] = '{"a model": "AVAILABLE"}'
    other.wait_ready()


def test_what_a_server_does_not_say_is_none(pages: dict[str, str]) -> None:
    kserve, other = (Target("m", api, None, pages["address"], None) for api in (KSERVE, OTHER))
    assert kserve.about() is None and other.about() is None
    assert kserve.served() == {"metadata": None, "status": None}
    assert Target("m", KSERVE, "127.0.0.1:1", None, None).served() is None
    pages |= {"/v2": '{"name": "s", "version": 3}', "/v2/models/m": "{", "/v1/config": '{"m": {"state": 1}}'}
    assert kserve.about() == {"name": "s", "version": "3"} and other.about() is None
    assert kserve.served() == {"metadata": None, "status": {"state": 1}}
