"""KServe over REST on the wire, with binary tensors."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from tritonclient.http import InferenceServerClient

from loadproof_clients.apis import APIS
from loadproof_clients.kserve.json_tensors import binary_inputs, read_body
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import Tensors
from loadproof_clients.transport import reading
from loadproof_clients.wire.client import Message
from loadproof_clients.wire.connection import Answer
from loadproof_clients.wire.rest import RestClient, request

JSON_SIZE: Final = "Inference-Header-Content-Length"
JSON_SIZE_KEY: Final = JSON_SIZE.lower().encode()


class WireRest(RestClient):
    """One client (transport.Client)."""

    @classmethod
    def encode(cls, spec: LoadSpec, payload: Tensors) -> Message:
        """The body that tritonclient would send, and the header that says where its JSON ends."""
        body, json_size = InferenceServerClient.generate_request_body(binary_inputs(payload))
        sizes = {JSON_SIZE: str(len(body) if json_size is None else json_size)}
        path = f"/v2/models/{quote(spec.model)}{APIS['kserve'].carriers['rest'].inference_path}"
        return request(spec, path, {"Content-Type": "application/octet-stream", **sizes}, body)

    def question(self) -> Message:
        path = APIS["kserve"].carriers["rest"].ready_path
        return Message(f"GET {path} HTTP/1.1\r\nHost: {self._url}".encode(), b"")

    def is_ready(self, answer: Answer) -> bool:
        return True

    def content(self, answer: Answer) -> Any:
        return answer.headers.get(JSON_SIZE_KEY), answer.body

    def tensors(self, answer: Answer) -> Tensors:
        with reading():
            return read_body(answer.body, answer.headers.get(JSON_SIZE_KEY))
