"""Messages that come compressed, and deadlines: as gRPC's own client sends them, and as no client does."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from loadproof_server.connections import http2
from loadproof_server.connections.grpc import GrpcConnection
from loadproof_server.connections.grpc_stream import PREFIX, decompressed
from loadproof_server.dataplane.metrics import Metrics
from loadproof_server.dataplane.plane import Plane
from loadproof_server.kserve.grpc import handlers
from tests.server.connections.test_grpc import CONNECTION_PREFACE
from tests.server.connections.test_http2_sender import Client, serving
from tests.server.small_models import Serve, Server, listening, run, wait_until

COMPRESSIONS = (grpc.Compression.Gzip, grpc.Compression.Deflate)
PACKED: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.compress, b"deflate": zlib.compress}


def head(number: int, path: bytes, **headers: bytes) -> bytes:
    rows = [(b":path", path), (b"content-type", b"application/grpc")]
    rows += [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    block = b"".join(http2.literal(name, value) for name, value in rows)
    return http2.frame(http2.HEADERS, http2.END_HEADERS, number, block)


def ask(number: int, path: bytes, message: bytes = PREFIX.pack(0, 0), **headers: bytes) -> bytes:
    return head(number, path, **headers) + http2.frame(http2.DATA, http2.END_STREAM, number, message)


def packed(message: bytes) -> bytes:
    return PREFIX.pack(1, len(message)) + message


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 10, 25, 1000, 16_393, 1 << 18])
@pytest.mark.parametrize("size", [0, 1, 16_379, 40_001, 40_002, 40_004])
def test_a_message_is_whole_however_it_arrives_and_its_end_is_aligned(size: int, cut: int) -> None:
    message = np.random.default_rng(1).bytes(size)
    body = PREFIX.pack(0, size) + message
    data = CONNECTION_PREFACE + head(1, b"/take")
    for start in range(0, len(body), http2.DEFAULT_FRAME):
        last = start + http2.DEFAULT_FRAME >= len(body)
        data += http2.frame(http2.DATA, http2.END_STREAM if last else 0, 1, body[start : start + http2.DEFAULT_FRAME])
    seen: list[tuple[bytes, int]] = []

    async def take(view: memoryview) -> list[bytes]:
        address = np.frombuffer(view, np.uint8).ctypes.data if size else 0
        seen.append((bytes(view), address + size))
        return [b""]

    async def test() -> None:
        async with listening(lambda state: GrpcConnection(state, {b"/take": take})) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(data), cut):
                writer.write(data[start : start + cut])
                if start < 200 * cut:  # or the rest arrives as it may
                    await writer.drain()
                    await asyncio.sleep(0)
            await Client(reader, writer).status(1)
            writer.close()

    run(test)
    ((found, end),) = seen
    assert found == message
    if size > http2.DEFAULT_FRAME:
        assert end % 8 == 0


@pytest.mark.parametrize("rows", [1, 50_000])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_compressed_message_is_read(free: Server, compression: grpc.Compression, rows: int) -> None:
    x = np.random.default_rng(1).integers(-9, 9, (rows, 32)).astype(np.float32)
    request = pb.ModelInferRequest(model_name="free", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(free.grpc, options, compression) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert answer.raw_output_contents[0] == np.maximum(x, 0).tobytes()


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"body_bytes": 5 << 20}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ({"held_bytes": 5 << 20}, grpc.StatusCode.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_bomb_is_refused_and_the_connection_lives_on(
    compression: grpc.Compression, limits: dict[str, int], code: grpc.StatusCode
) -> None:
    methods = handlers(Plane(Metrics()))

    async def test() -> None:
        async with (
            listening(lambda state: GrpcConnection(state, methods), **limits) as (port, server),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", compression=compression) as channel,
        ):
            stub = GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                await stub.ModelInfer(pb.ModelInferRequest(raw_input_contents=[bytes(100 << 20)]))
            assert caught.value.code() == code
            assert (await stub.ServerLive(pb.ServerLiveRequest())).live
            assert server._state.held_bytes == 0

    run(test)


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("size", [0, 1, 65_536, 3 << 20])
def test_pieces_are_bounded_and_the_whole_is_the_message(encoding: bytes, size: int) -> None:
    for message in (bytes(size), np.random.default_rng(1).bytes(size)):
        pieces = list(decompressed(encoding, memoryview(PACKED[encoding](message))))
        assert b"".join(pieces) == message
        assert max(map(len, pieces)) <= 1 << 20


@pytest.mark.parametrize(
    ("headers", "message", "status"),
    [
        ({}, packed(gzip.compress(b"x")), b"13"),
        ({"grpc_encoding": b"identity"}, packed(gzip.compress(b"x")), b"13"),
        ({"grpc_encoding": b"gzip"}, packed(b"no gzip"), b"3"),
        ({"grpc_encoding": b"gzip"}, packed(b""), b"3"),
        ({"grpc_encoding": b"gzip"}, packed(gzip.compress(bytes(1000))[:-1]), b"3"),
        ({"grpc_encoding": b"gzip"}, packed(gzip.compress(b"x") + b"x"), b"3"),
        ({"grpc_encoding": b"deflate"}, packed(gzip.compress(b"x")), b"3"),
        ({"grpc_encoding": b"snappy"}, packed(b"x"), b"12"),
        ({"grpc_encoding": b"snappy"}, PREFIX.pack(0, 1) + b"x", b"0"),
        ({"grpc_encoding": b"deflate"}, packed(zlib.compress(b"x")), b"0"),
    ],
    ids=[
        "no-encoding",
        "identity",
        "not-gzip",
        "empty",
        "cut",
        "more-than-whole",
        "another",
        "unknown",
        "not-packed",
        "whole",
    ],
)
def test_what_cannot_be_decompressed_is_refused(headers: dict[str, bytes], message: bytes, status: bytes) -> None:
    async def test() -> None:
        async with serving() as (port, _, _, state):
            client = await Client.connect(port, CONNECTION_PREFACE, ask(1, b"/small", message, **headers))
            found = await client.trailers(1)
            assert found[b"grpc-status"] == status
            assert (b"grpc-accept-encoding" in found) == (status == b"12")
            assert state.held_bytes == 0
            client.writer.close()

    run(test)


def test_a_request_past_its_deadline_is_answered_so_and_leaves_nothing() -> None:
    async def test() -> None:
        async with serving() as (port, application, _, state):
            begun = time.monotonic()
            client = await Client.connect(port, CONNECTION_PREFACE, ask(1, b"/late", grpc_timeout=b"200m"))
            client.writer.write(ask(3, b"/large", grpc_timeout=b"0n") + ask(5, b"/small", grpc_timeout=b"99999999H"))
            assert [await client.status(number) for number in (3, 5, 1)] == [b"4", b"0", b"4"]
            assert time.monotonic() - begun > 0.19
            assert application.calls == 0
            await asyncio.sleep(0)
            assert (len(state.tasks), state.held_bytes) == (0, 0)
            client.writer.close()

    run(test)


def test_an_answer_that_its_client_does_not_take_in_time_is_cut_off() -> None:
    async def test() -> None:
        async with serving() as (port, _, _, state):
            client = await Client.connect(port, CONNECTION_PREFACE, ask(1, b"/large", grpc_timeout=b"200m"))
            while (found := await client.frame())[0] != http2.RST_STREAM:
                pass
            assert found[2:] == (1, http2.CANCEL.to_bytes(4, "big"))
            assert state.held_bytes == 0
            client.writer.write(http2.widen_connection(1 << 20) + ask(3, b"/small"))
            assert await client.status(3) == b"0"
            client.writer.close()

    run(test)


@pytest.mark.parametrize("timeout", [b"", b"S", b"1", b"1x", b"-1S", b"123456789S", b"1.5S"])
def test_a_timeout_that_is_none_is_refused(timeout: bytes) -> None:
    async def test() -> None:
        async with serving() as (port, _, _, _):
            client = await Client.connect(port, CONNECTION_PREFACE, ask(1, b"/small", grpc_timeout=timeout))
            assert await client.status(1) == b"3"
            client.writer.close()

    run(test)


def slow_request() -> Any:
    request = pb.ModelInferRequest(model_name="slow", raw_input_contents=[bytes(2048)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 512])
    return request


def test_a_request_whose_deadline_passes_in_the_queue_is_ended_and_counted_as_failed(serve: Serve) -> None:
    """Both as the client's own clock ends it, and as the server's does where the client has none."""
    server = serve("slow", "--nireq", "1")
    with grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(1) as pool:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        first = pool.submit(infer, slow_request())
        wait_until(lambda: server.metric("ovms_current_requests") == 1)
        for options in ({"timeout": 0.1}, {"metadata": [("grpc-timeout", "100m")]}):
            with pytest.raises(grpc.RpcError) as caught:
                infer(slow_request(), **options)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert caught.value.details() == "deadline: the time that grpc-timeout gives has passed"
        assert not first.done()
        assert len(first.result().raw_output_contents[0]) == 2048
        infer(slow_request(), timeout=60)
    assert server.metric("ovms_inference_time_us_count") == server.metric("ovms_requests_success") == 2
    assert server.metric("ovms_requests_fail") == 2
    assert server.metric("ovms_current_requests") == 0
