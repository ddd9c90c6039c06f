"""REST on the wire: KServe's binary tensors over HTTP/1.1, a kept connection for each request in flight."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from tritonclient.http import InferenceServerClient, InferResult

from loadproof_clients.answers import Tensor
from loadproof_clients.load.transports import Failure
from loadproof_clients.load.triton_rest import encode_rest, read_result
from loadproof_clients.load.wire.client import Message, WireClient
from loadproof_clients.load.wire.connection import Answer
from loadproof_clients.load.wire.http1 import Http1
from loadproof_clients.records import ID_HEADER, OK, UNREADABLE
from loadproof_clients.spec import LoadSpec

LENGTH: Final = "Inference-Header-Content-Length"
LENGTH_KEY: Final = LENGTH.lower().encode()


def encode(spec: LoadSpec, request: Any) -> Message:
    """A ModelInferRequest as tritonclient would send it, and the header that says where its JSON ends."""
    body, json_size = InferenceServerClient.generate_request_body(encode_rest(request))
    lines = [
        f"POST /v2/models/{quote(spec.model)}/infer HTTP/1.1",
        f"Host: {spec.url}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(body)}",
        f"{LENGTH}: {len(body) if json_size is None else json_size}",
        f"{ID_HEADER}: ",
    ]
    return Message("\r\n".join(lines).encode(), body)


class RestWire(WireClient):
    """One client: in the open loop it opens further connections while its own are busy, and keeps them."""

    engine = Http1

    def question(self) -> Message:
        return Message(f"GET /v2/health/ready HTTP/1.1\r\nHost: {self._url}".encode(), b"")

    def is_ready(self, answer: Answer) -> bool:
        return True

    def judge(self, answer: Answer) -> tuple[int, str]:
        status = answer.http_status
        return (OK, "") if status == 200 else (status, answer.body[:500].decode(errors="replace"))

    def content(self, result: Answer) -> Any:
        return result.headers.get(LENGTH_KEY), result.body

    def tensors(self, result: Answer) -> list[Tensor]:
        length = result.headers.get(LENGTH_KEY)
        try:
            return read_result(InferResult.from_response_body(result.body, header_length=length and int(length)))
        except (ValueError, KeyError, TypeError) as error:  # what tritonclient's decoder raises
            raise Failure(UNREADABLE, f"{type(error).__name__}: {error}") from None
