"""REST on the wire: requests over HTTP/1.1, a kept connection for each request in flight."""

from __future__ import annotations

from collections.abc import Mapping

from loadproof_clients.records import ID_HEADER, OK
from loadproof_clients.spec import LoadSpec
from loadproof_clients.wire.client import Message, WireClient
from loadproof_clients.wire.connection import Answer
from loadproof_clients.wire.http1 import Http1


def request(spec: LoadSpec, path: str, headers: Mapping[str, str], body: bytes) -> Message:
    """A POST with an id; `path` is quoted already."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {spec.url}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"{ID_HEADER}: ",
    ]
    return Message("\r\n".join(lines).encode(), body)


class RestClient(WireClient):
    """One client: in the open loop it opens further connections while its own are busy, and keeps them."""

    engine = Http1

    def judge(self, answer: Answer) -> tuple[int, str]:
        status = answer.http_status
        return (OK, "") if status == 200 else (status, answer.body[:500].decode(errors="replace"))
