"""tritonclient's answers over REST within bounds: geventhttpclient takes whatever comes, for as long as it comes.

geventhttpclient makes its answers by name, so this class takes that name's place. What it bounds: the bytes of an
answer with all that frames them, those of its headers, trailers and interim answers, how much tritonclient asks for at
once by the size that a header says, and compressed answers, which were not asked for and may unpack to anything.
"""

from __future__ import annotations

from typing import Any, Final

import geventhttpclient.client
from geventhttpclient.response import HTTPSocketPoolResponse

from loadproof_clients.records import TOO_LARGE, UNREADABLE
from loadproof_clients.transport import Failure
from loadproof_clients.wire.connection import HEAD_BYTES_MAX, too_large

JSON_SIZE: Final = "inference-header-content-length"


class Bounded(HTTPSocketPoolResponse):
    """An answer that raises Failure instead of growing on."""

    def __init__(self, sock: Any, pool: Any, **options: Any) -> None:
        self._bytes_max: int = getattr(pool, "answer_bytes_max", 1 << 62)
        self._size = self._head_size = 0
        super().__init__(sock, pool, **options)
        try:
            self._check()
        except Failure:
            self.release()
            raise

    def _check(self) -> None:
        """What the head says of the body."""
        if self.get("content-encoding", "identity") != "identity":
            raise Failure(UNREADABLE, "a compressed answer that was not asked for")
        for name, status in (("content-length", TOO_LARGE), (JSON_SIZE, UNREADABLE)):
            said = self.get(name)
            if said is not None and not (isinstance(said, str) and said.isdecimal() and len(said) < 20):
                raise Failure(UNREADABLE, f"{name}: not a size")
            if said is not None and int(said) > self._bytes_max:
                raise Failure(status, too_large(self._bytes_max))

    def feed(self, data: Any) -> None:
        self._size += len(data)
        if self._size > self._bytes_max + HEAD_BYTES_MAX:
            raise Failure(TOO_LARGE, too_large(self._bytes_max))
        super().feed(data)

    def _on_header_field(self, string: str) -> None:
        self._count(string)
        super()._on_header_field(string)

    def _on_header_value(self, string: str) -> None:
        self._count(string)
        super()._on_header_value(string)

    def _count(self, string: str) -> None:
        self._head_size += len(string)
        if self._head_size > HEAD_BYTES_MAX:
            raise Failure(UNREADABLE, "headers are too large")


setattr(geventhttpclient.client, "HTTPSocketPoolResponse", Bounded)  # noqa: B010


def bound(client: Any, bytes_max: int) -> None:
    """Bounds every answer to a tritonclient.http.InferenceServerClient."""
    client._client_stub._connection_pool.answer_bytes_max = bytes_max
