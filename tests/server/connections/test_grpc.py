"""HTTP/2 as no client library sends it, and gRPC's limits made small, in a server of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from loadproof_server.connections import http2
from loadproof_server.connections.grpc import GrpcConnection
from loadproof_server.dataplane.metrics import Metrics
from loadproof_server.dataplane.plane import Plane
from loadproof_server.kserve.grpc import handlers
from tests.server.connections.test_http1 import say
from tests.server.small_models import listening, run


@asynccontextmanager
async def serving_grpc(**limits: Any) -> AsyncIterator[int]:
    methods = handlers(Plane(Metrics()))
    async with listening(lambda state: GrpcConnection(state, methods), **limits) as (port, _):
        yield port


async def is_live(port: int) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        answer = await GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), wait_for_ready=True)
        return bool(answer.live)


CONNECTION_PREFACE = http2.PREFACE + http2.settings({})
LIVE = b"".join(
    http2.literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":path", b"/inference.GRPCInferenceService/ServerLive"),
        (b"content-type", b"application/grpc"),
    )
)
MORE = http2.frame(http2.CONTINUATION, 0, 1, bytes(60_000))
ENDED = http2.END_HEADERS | http2.END_STREAM


def goaway_message(answer: bytes) -> bytes:
    """The message of the GOAWAY frame at the end."""
    position, message = 0, b""
    while position < len(answer):
        size, kind = int.from_bytes(answer[position : position + 3], "big"), answer[position + 3]
        if kind == http2.GOAWAY:
            message = answer[position + 17 : position + 9 + size]
        position += 9 + size
    return message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"no HTTP/2"),
        (CONNECTION_PREFACE + http2.frame_head(http2.DATA, 0, 1, 1 << 23), b"a frame is too large"),
        (CONNECTION_PREFACE + http2.frame(http2.DATA, 0, 1, b"x"), b"a stream that was never opened"),
        (CONNECTION_PREFACE + http2.frame(http2.HEADERS, ENDED, 2, LIVE), b"a client's streams have odd numbers"),
        (CONNECTION_PREFACE + http2.frame(http2.HEADERS, ENDED, 1, b"\xff\xff\xff"), b"headers cannot be read"),
        (CONNECTION_PREFACE + http2.frame(http2.HEADERS, 0, 1, bytes(60_000)) + MORE, b"headers are too large"),
        (
            CONNECTION_PREFACE + http2.frame(http2.HEADERS, 0, 1, b"") + http2.frame(http2.PING, 0, 0, bytes(8)),
            b"not continued",
        ),
        (http2.PREFACE + http2.frame(http2.PING, 0, 0, bytes(8)), b"no SETTINGS at first"),
        (CONNECTION_PREFACE + http2.frame(http2.PING, 0, 1, bytes(8)), b"a frame for a wrong stream"),
        (CONNECTION_PREFACE + http2.frame(http2.HEADERS, ENDED, 0, LIVE), b"a frame for a wrong stream"),
        (CONNECTION_PREFACE + http2.frame(http2.RST_STREAM, 0, 7, bytes(4)), b"a stream that was never opened"),
        (CONNECTION_PREFACE + http2.frame(http2.WINDOW_UPDATE, 0, 7, b"0000"), b"a stream that was never opened"),
        (CONNECTION_PREFACE + http2.frame(http2.SETTINGS, http2.ACK, 0, bytes(6)), b"a frame of a wrong size"),
        (CONNECTION_PREFACE + http2.frame(http2.CONTINUATION, 0, 1), b"nothing is to be continued"),
        (CONNECTION_PREFACE + http2.frame(http2.PING, 0, 0, b"x"), b"a frame of a wrong size"),
        (CONNECTION_PREFACE + http2.frame(http2.SETTINGS, 0, 0, b"x"), b"SETTINGS of a broken size"),
        (CONNECTION_PREFACE + http2.frame(http2.WINDOW_UPDATE, 0, 0, bytes(4)), b"a window of a wrong size"),
        (CONNECTION_PREFACE + http2.frame(http2.PUSH_PROMISE, 0, 1, bytes(4)), b"a client promises nothing"),
        (CONNECTION_PREFACE + http2.frame(http2.HEADERS, 4, 1, LIVE) * 2, b"headers in the middle of a stream"),
        (CONNECTION_PREFACE + http2.frame(http2.HEADERS, http2.PADDED | ENDED, 1, b"\xff"), b"more padding than frame"),
    ],
    ids=lambda value: value.decode() if len(value) < 40 else "",
)
def test_what_breaks_http2_ends_its_connection_with_a_reason(data: bytes, message: bytes) -> None:
    async def test() -> None:
        async with serving_grpc() as port:
            assert message in goaway_message(await say(port, data))
            assert await is_live(port)

    run(test)


def test_headers_in_pieces_with_padding_are_read() -> None:
    """And the answer waits for the window, which is one byte wide."""
    padded = bytes([3]) + LIVE[:20] + bytes(3)
    window = http2.settings({http2.INITIAL_WINDOW_SIZE: 1})
    data = http2.PREFACE + window + http2.frame(http2.HEADERS, http2.PADDED, 1, padded)
    data += http2.frame(http2.CONTINUATION, 0, 1, LIVE[20:30]) + http2.frame(http2.CONTINUATION, 4, 1, LIVE[30:])
    data += http2.frame(http2.DATA, http2.END_STREAM | http2.PADDED, 1, bytes([2]) + bytes(5) + bytes(2))

    async def test() -> None:
        async with serving_grpc() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            found = bytearray()
            while not found.endswith(b"grpc-status\x010"):
                found += await reader.read(1000)
                if found[-10:-1] == http2.frame_head(http2.DATA, 0, 1, 1):
                    writer.write(http2.frame(http2.WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")))
            assert found.count(http2.frame_head(http2.DATA, 0, 1, 1)) == 7  # of a message of 2 bytes and its head of 5
            writer.close()

    run(test)


def test_silence_and_messages_without_an_end_are_refused_on_grpc_too() -> None:
    message = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, LIVE) + http2.frame(http2.DATA, 0, 1, bytes(3))

    async def test() -> None:
        async with serving_grpc(request_s=0.5) as port:
            silent = asyncio.create_task(say(port, http2.PREFACE[:10]))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CONNECTION_PREFACE + message)
            answer = await reader.readuntil(b"complete after")
            assert b"grpc-status\x014" in answer  # DEADLINE_EXCEEDED
            writer.close()
            await silent
            assert await is_live(port)

    run(test)


def test_grpc_takes_so_many_connections() -> None:
    async def test() -> None:
        async with serving_grpc(connections=1) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.1)
            assert goaway_message(await say(port, CONNECTION_PREFACE)) == b"too many connections: 1"
            writer.close()
            await asyncio.sleep(0.1)
            assert await is_live(port)

    run(test)


def test_a_grpc_message_over_the_limit_is_refused_and_the_connection_lives_on() -> None:
    async def test() -> None:
        async with serving_grpc(body_bytes=1000) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError, match="message: larger than 1000 bytes") as caught:
                await stub.ModelInfer(pb.ModelInferRequest(raw_input_contents=[bytes(2000)]))
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await stub.ServerLive(pb.ServerLiveRequest())).live

    run(test)
