"""The truth server's gRPC side: grpc.aio, answers as bytes so that garbage can be sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

from tests.truth.house import FLOATS, ID_HEADER, House, double

SERVICE = "inference.GRPCInferenceService"


class Servicer:
    def __init__(self, house: House) -> None:
        self._house = house

    async def ServerLive(self, request: bytes, context: Any) -> bytes:
        return as_bytes(pb.ServerLiveResponse(live=True))

    async def ServerReady(self, request: bytes, context: Any) -> bytes:
        return as_bytes(pb.ServerReadyResponse(ready=True))

    async def ModelReady(self, request: bytes, context: Any) -> bytes:
        return as_bytes(pb.ModelReadyResponse(ready=True))

    async def ModelMetadata(self, request: bytes, context: Any) -> bytes:
        answer = pb.ModelMetadataResponse(name=pb.ModelMetadataRequest.FromString(request).name, versions=["1"])
        answer.inputs.add(name="x", datatype="FP32", shape=[-1, FLOATS])
        answer.outputs.add(name="y", datatype="FP32", shape=[-1, FLOATS])
        return as_bytes(answer)

    async def ModelInfer(self, request: bytes, context: Any) -> bytes:
        message = pb.ModelInferRequest.FromString(request)
        name = next((value for key, value in context.invocation_metadata() if key == ID_HEADER), "")
        raw = message.raw_input_contents[0]
        visit = self._house.arrive(name, "grpc", context.peer(), raw)
        await self._house.serve(visit)
        answer = b"\xff\xff" if visit.did == "garbage" else _answer(message, double(raw, visit.did))
        if visit.did in ("error", "cut"):
            await context.send_initial_metadata(())  # HTTP 200, and the status in the trailers
        self._house.leave(visit)
        if visit.did == "error":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "told to fail")
        if visit.did in ("drop", "cut"):
            cut(visit.peer)
            await asyncio.sleep(3600)  # the closed connection cancels this
        return answer

    def handlers(self) -> Any:
        """The service without serialisers: gRPC's own would refuse to send garbage."""
        methods = (self.ServerLive, self.ServerReady, self.ModelReady, self.ModelMetadata, self.ModelInfer)
        handlers = {method.__name__: grpc.unary_unary_rpc_method_handler(method) for method in methods}
        return grpc.method_handlers_generic_handler(SERVICE, handlers)


def as_bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _answer(request: Any, raw: bytes) -> bytes:
    x = request.inputs[0]
    answer = pb.ModelInferResponse(model_name=request.model_name, raw_output_contents=[raw])
    answer.outputs.add(name="y", datatype=x.datatype, shape=x.shape)
    return as_bytes(answer)


def cut(peer: str) -> None:
    """Closes this process's TCP connection to `peer` (`ipv4:127.0.0.1:1234`) without gRPC's knowledge."""
    port = int(peer.rpartition(":")[2])
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(fd))) as copy:
                if copy.family != socket.AF_UNIX and copy.getpeername()[1] == port:
                    copy.shutdown(socket.SHUT_RDWR)


async def start(house: House, host: str, port: int, streams: int) -> tuple[Any, int]:
    """The started server and its port; a connection takes that many `streams` at once."""
    # Its protection against overload refuses at random, also where the limit is kept.
    options = {"max_concurrent_streams": streams, "http.overload_protection": 0}
    options |= {"max_receive_message_length": 2**30, "so_reuseport": 0}
    server = grpc.aio.server(options=[(f"grpc.{name}", value) for name, value in options.items()])
    server.add_generic_rpc_handlers((Servicer(house).handlers(),))
    bound = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server, bound
