"""Flow control, clients that do not read, streams that are reset, and the end of a server, in raw HTTP/2."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import hpack
import pytest

from loadproof_server.connections import http2
from loadproof_server.connections.grpc import GrpcConnection
from loadproof_server.connections.listener import Listener, ListenerState
from tests.server.connections.test_grpc import CONNECTION_PREFACE, ENDED
from tests.server.small_models import listening, run

WIDE = {http2.INITIAL_WINDOW_SIZE: http2.MAX_WINDOW}
MESSAGE = bytes(5)  # an empty one


@dataclass
class Application:
    """Answers whose size the path says, when it may."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0

    async def large(self, _: memoryview) -> Sequence[bytes]:
        self.calls += 1
        return [bytes(1 << 20)]

    async def small(self, message: memoryview) -> Sequence[bytes]:
        return [bytes(95)]

    async def late(self, _: memoryview) -> Sequence[bytes]:
        await self.open.wait()
        return [b"late"]

    async def wrong(self, _: memoryview) -> Sequence[bytes]:
        raise ZeroDivisionError

    async def none(self, _: memoryview) -> Any:
        return [None]


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[tuple[int, Application, Listener, ListenerState]]:
    application = Application()
    names = ("large", "small", "late", "wrong", "none")
    handlers = {b"/" + name.encode(): getattr(application, name) for name in names}
    async with listening(lambda state: GrpcConnection(state, handlers), **limits) as (port, server):
        yield port, application, server, server._state


def ask(number: int, path: bytes, flags: int = ENDED) -> bytes:
    """A request's headers; with END_STREAM, and then with its message before."""
    block = http2.literal(b":path", path) + http2.literal(b"content-type", b"application/grpc")
    head = http2.frame(http2.HEADERS, http2.END_HEADERS, number, block)
    return head + (http2.frame(http2.DATA, http2.END_STREAM, number, MESSAGE) if flags == ENDED else b"")


def update(number: int, more: int) -> bytes:
    return http2.frame(http2.WINDOW_UPDATE, 0, number, struct.pack(">I", more))


class Client:
    """Reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.decoder = hpack.Decoder()

    @classmethod
    async def connect(cls, port: int, *more: bytes) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.writer.write(b"".join(more))
        return client

    async def frame(self) -> tuple[int, int, int, bytes]:
        head = await self.reader.readexactly(9)
        payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def until_pong(self) -> dict[int, int]:
        """The bytes of DATA of each stream until the server has answered all that was sent."""
        self.writer.write(http2.frame(http2.PING, 0, 0, bytes(8)))
        found: dict[int, int] = {}
        while True:
            kind, flags, number, payload = await self.frame()
            if kind == http2.DATA:
                found[number] = found.get(number, 0) + len(payload)
            if kind == http2.PING and flags & http2.ACK:
                return found

    async def status(self, number: int) -> bytes:
        """The gRPC status of a stream; other frames are passed over."""
        return (await self.trailers(number))[b"grpc-status"]

    async def trailers(self, number: int) -> dict[bytes, bytes]:
        """The headers at the end of a stream; other frames are passed over."""
        while True:
            kind, flags, of, payload = await self.frame()
            if kind == http2.HEADERS:
                headers = dict(self.decoder.decode(payload, raw=True))
                if of == number and flags & http2.END_STREAM:
                    return headers


def unsent(state: ListenerState) -> int:
    return sum(each.transport.get_write_buffer_size() for each in state.connections)


def test_answers_that_nobody_reads_wait_and_are_all_there_when_they_are_read() -> None:
    async def test() -> None:
        async with serving() as (port, application, _, state):
            requests = b"".join(ask(2 * number + 1, b"/large") for number in range(100))
            client = await Client.connect(port, http2.PREFACE, http2.settings(WIDE), update(0, 1 << 30), requests)
            most = 0
            while application.calls < 100:
                await asyncio.sleep(0.01)
                most = max(most, unsent(state))
            assert most < 4 << 20
            ends = 0
            while ends < 100:
                kind, flags, *_ = await client.frame()
                ends += kind == http2.HEADERS and bool(flags & http2.END_STREAM)
            client.writer.close()

    run(test)


@pytest.mark.parametrize(
    "flood",
    [http2.frame(http2.PING, 0, 0, bytes(8)), http2.settings({}), ask(2, b"/no")],
    ids=["pings", "settings", "unknown methods"],
)
def test_a_client_that_floods_and_does_not_read_is_cut(flood: bytes) -> None:
    async def test() -> None:
        async with serving() as (port, _, _, state):
            client = await Client.connect(port, CONNECTION_PREFACE, ask(1, b"/late"))
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            number = 3
            most = 0
            while not client.writer.is_closing():
                if flood[3] == http2.HEADERS:
                    piece = b"".join(ask(number + 2 * each, b"/no") for each in range(5000))
                    number += 10_000
                else:
                    piece = flood * 20_000
                client.writer.write(piece)
                try:
                    await client.writer.drain()
                except OSError:
                    break
                most = max(most, unsent(state))
                assert number < 10_000_000
            assert most < 16 << 20

    run(test)


def test_the_connections_window_is_shared_in_turns() -> None:
    async def test() -> None:
        async with serving() as (port, application, _, _):
            client = await Client.connect(port, http2.PREFACE, http2.settings(WIDE), ask(1, b"/large"))
            first = await client.until_pong()
            client.writer.write(ask(3, b"/large") + ask(5, b"/large"))
            await client.until_pong()
            while application.calls < 3:
                await asyncio.sleep(0.01)
            found = {1: first.get(1, 0), 3: 0, 5: 0}
            for _ in range(3):
                client.writer.write(update(0, 10_000))
                for number, size in (await client.until_pong()).items():
                    found[number] += size
            assert found[3] == found[5] == 10_000
            client.writer.close()

    run(test)


def test_a_smaller_initial_window_takes_back_what_was_given() -> None:
    """RFC 9113, 6.9.2: the window may become negative."""

    async def test() -> None:
        async with serving() as (port, _, _, _):
            window = http2.settings({http2.INITIAL_WINDOW_SIZE: 10})
            client = await Client.connect(port, http2.PREFACE, window, ask(1, b"/small"))
            assert sum([size for _ in range(2) for size in (await client.until_pong()).values()]) == 10
            client.writer.write(http2.settings({http2.INITIAL_WINDOW_SIZE: 4}) + update(1, 6))
            assert await client.until_pong() == {}
            client.writer.write(update(1, 1))
            assert await client.until_pong() == {1: 1}
            client.writer.write(http2.settings({http2.INITIAL_WINDOW_SIZE: 1000}))
            assert await client.until_pong() == {1: 89}
            client.writer.close()

    run(test)


def test_a_client_without_a_header_table_gets_a_size_update_to_0() -> None:
    """RFC 7541, 4.2: else its decoder must call the first header block broken."""

    async def test() -> None:
        async with serving() as (port, _, _, _):
            none = http2.settings({http2.HEADER_TABLE_SIZE: 0})
            client = await Client.connect(port, http2.PREFACE, none, ask(1, b"/small"), ask(3, b"/small"))
            client.decoder.max_allowed_table_size = 0
            assert [await client.status(1), await client.status(3)] == [b"0", b"0"]
            client.writer.close()

    run(test)


def test_a_request_in_single_bytes_is_read() -> None:
    async def test() -> None:
        async with serving() as (port, _, _, _):
            client = await Client.connect(port)
            for byte in CONNECTION_PREFACE + ask(1, b"/small"):
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert await client.status(1) == b"0"
            client.writer.close()

    run(test)


@pytest.mark.parametrize("path", [b"/wrong", b"/none"], ids=["an exception", "no answer"])
def test_a_handler_that_fails_costs_its_stream_only(path: bytes) -> None:
    async def test() -> None:
        async with serving() as (port, _, _, state):
            client = await Client.connect(port, CONNECTION_PREFACE, ask(1, path))
            assert await client.status(1) == b"13"
            client.writer.write(ask(3, b"/small"))
            assert await client.status(3) == b"0"
            assert not state.tasks
            client.writer.close()

    run(test)


def test_streams_that_are_opened_and_reset_leave_nothing() -> None:
    async def test() -> None:
        async with serving() as (port, _, _, state):
            client = await Client.connect(port, CONNECTION_PREFACE)
            for begin in range(0, 20_000, 1000):
                for number in range(begin, begin + 1000):
                    reset = http2.frame(http2.RST_STREAM, 0, 2 * number + 1, struct.pack(">I", http2.CANCEL))
                    client.writer.write(ask(2 * number + 1, b"/late") + reset)
                await client.writer.drain()
            client.writer.write(ask(40_001, b"/small"))
            assert await client.status(40_001) == b"0"
            assert (len(state.tasks), state.held_bytes) == (0, 0)
            client.writer.close()

    run(test)


def test_a_server_that_stops_answers_what_is_open_and_refuses_the_rest() -> None:
    async def test() -> None:
        async with serving() as (port, application, server, _):
            client = await Client.connect(port, CONNECTION_PREFACE, ask(1, b"/late"))
            await client.until_pong()
            stop = asyncio.create_task(server.stop(30))
            while (await client.frame())[0] != http2.GOAWAY:
                pass
            client.writer.write(ask(3, b"/small"))
            while (found := await client.frame())[0] != http2.RST_STREAM:
                pass
            assert found[2:] == (3, struct.pack(">I", http2.REFUSED_STREAM))
            application.open.set()
            assert await client.status(1) == b"0"
            assert await client.reader.read() == b""
            client.writer.close()
            await stop

    run(test)


def test_a_server_that_stops_waits_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadproof_server.connections.grpc._LINGER_S", 0.1)

    async def test() -> None:
        async with serving() as (port, application, server, _):
            requests = b"".join(ask(2 * number + 1, b"/large") for number in range(30))
            client = await Client.connect(port, http2.PREFACE, http2.settings(WIDE), update(0, 1 << 30), requests)
            while application.calls < 30:
                await asyncio.sleep(0.01)
            stop = asyncio.create_task(server.stop(30))
            await asyncio.sleep(1.2)  # more than two sweeps
            answer = await client.reader.read()
            assert answer.count(b"grpc-status\x010") == 30 and len(answer) > 30 << 20
            client.writer.close()
            await stop

    run(test)


@pytest.mark.parametrize("type_", [b"application/grpc-web", b"application/json", b""])
def test_what_is_no_grpc_is_an_unsupported_media_type(type_: bytes) -> None:
    async def test() -> None:
        async with serving() as (port, _, _, _):
            block = http2.literal(b":path", b"/small") + http2.literal(b"content-type", type_)
            client = await Client.connect(port, CONNECTION_PREFACE, http2.frame(http2.HEADERS, ENDED, 1, block))
            while (found := await client.frame())[0] != http2.HEADERS:
                pass
            assert dict(client.decoder.decode(found[3], raw=True))[b":status"] == b"415"
            client.writer.close()

    run(test)


def test_a_header_block_is_not_looked_up_once_the_table_was_replaced() -> None:
    """Entries of the table that take turns at the same place in memory."""

    def added(value: bytes) -> bytes:
        return b"\x40" + http2.literal(b"x", value)[1:]

    reader = http2.HeaderReader(1 << 16)
    for turn in range(200):
        values = [bytes([97 + (turn * 3 + each) % 26]) * 3000 for each in range(3)]
        reader.read(added(values[0]))
        assert reader.read(b"\xbe") == {b"x": values[0]}
        assert reader.read(b"\xbe") == {b"x": values[0]}
        reader.read(added(values[1]) + added(values[2]))
        assert reader.read(b"\xbe") == {b"x": values[2]}
