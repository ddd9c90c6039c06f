"""The null server's REST side: as much of HTTP/1.1 as it takes to answer each request with the same bytes."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from loadproof_clients.null_server.answers import Answers

HEAD_MAX: Final = 1 << 16
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
WANTED: Final = re.compile(rb"\r\nexpect: *100-continue\r\n", re.IGNORECASE)


class RestSide(asyncio.Protocol):
    """One connection; requests on it come one after the other. A body has to say its length."""

    def __init__(self, answered: Answers, inference_path: str) -> None:
        self._inference, self._about = answered.rest_inference, answered.rest_about
        self._inference_path = inference_path.encode()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._in = b""
        self._left = 0  # bytes of a body that are still to come, and what they will be answered with
        self._answer = b""

    def data_received(self, data: bytes) -> None:
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
            else:
                self._in += data
                end = self._in.find(b"\r\n\r\n")
                if end < 0:
                    if len(self._in) > HEAD_MAX:
                        self._transport.close()
                    return
                head, data, self._in = self._in[: end + 2], self._in[end + 4 :], b""
                self._begin(head)
            if not self._left:
                self._transport.write(self._answer)

    def _begin(self, head: bytes) -> None:
        length = LENGTH.search(head)
        self._left = int(length[1]) if length else 0
        path = head[: head.index(b"\r\n")].split(b" ")[1]
        self._answer = self._inference if path.endswith(self._inference_path) else self._about
        if self._left and WANTED.search(head):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
