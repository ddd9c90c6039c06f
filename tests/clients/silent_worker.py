"""A worker whose client library keeps the end of some requests to itself, for ever.

    python -m tests.clients.silent_worker --port P

Open loop over gRPC: of each answer that cannot be decoded, and of all that follow on its channel, which cannot even be
closed then: so does grpcio where a deserialiser raises. Elsewhere: of each SILENT_EVERY-th request.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from gevent.event import Event
from tritonclient.grpc import service_pb2

from loadproof_clients.kserve import tritonclient_grpc, tritonclient_rest
from loadproof_clients.load import worker

SILENT_EVERY: Final = 7


def silent(infer: Callable[..., Any]) -> Callable[..., Any]:
    def sometimes(transport: Any, payload: int, request_id: str) -> Any:
        if int(request_id.split(".")[2]) % SILENT_EVERY == SILENT_EVERY - 1:
            Event().wait()
        return infer(transport, payload, request_id)

    return sometimes


def main() -> int:
    tritonclient_grpc._parse = service_pb2.ModelInferResponse.FromString
    for client in (tritonclient_grpc.TritonGrpc, tritonclient_rest._Connection):
        client.infer = silent(client.infer)  # type: ignore[method-assign]
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
