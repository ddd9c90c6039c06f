"""What an HTTP/1.1 client may not do: the limits made small, in a server of this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loadproof_server.connections.http1 import Http1Connection
from loadproof_server.connections.http1_request import App, Reply, Request
from loadproof_server.errors import TooLarge, Unavailable
from tests.server.small_models import listening, run

HOUR_S = 3600.0


async def echo(request: Request) -> Reply:
    if request.path == "/unread":
        return 404, [], [b"unread"]
    return await reply_with(request)


async def reply_with(request: Request) -> Reply:
    try:
        body = await request.body()
    except (TooLarge, Unavailable) as error:
        return error.http_status, [], [str(error).encode()]
    except Exception as error:
        status = getattr(error, "http_status", None)
        if status is None:
            raise
        return status, [], [str(error).encode()]
    return 200, [], [request.path.encode(), b" ", body]


@asynccontextmanager
async def serving(app: App = echo, **limits: Any) -> AsyncIterator[int]:
    async with listening(lambda state: Http1Connection(state, app), **limits) as (port, _):
        yield port


async def say(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Sends the pieces and returns all that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.read())
    for piece in pieces:
        if not answer.done():
            writer.write(piece)
            await asyncio.sleep(pause_s)
    try:
        return await answer
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def post(body: bytes, *headers: bytes, path: bytes = b"/x") -> bytes:
    lines = [b"POST %s HTTP/1.1" % path, b"Host: h", *headers, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


CLOSE = b"Connection: close"


def test_requests_that_are_sent_ahead_are_answered_in_their_order() -> None:
    async def test() -> None:
        async with serving() as port:
            answer = await say(port, *(post(b"%d" % number) for number in range(20)), post(b"end", CLOSE))
        assert statuses(answer) == [200] * 21
        assert [part.split(b"\r\n\r\n")[1] for part in answer.split(b"HTTP/1.1 ")[1:]] == [
            *(b"/x %d" % number for number in range(20)),
            b"/x end",
        ]

    run(test)


def test_a_request_that_was_sent_ahead_in_part_gets_the_rest_of_its_body() -> None:
    async def test() -> None:
        async with serving() as port:
            two = post(b"a") + post(bytes(300_000), CLOSE)
            answer = await say(port, two[:300], two[300:], pause_s=0.2)
        assert statuses(answer) == [200, 200]
        assert len(answer) > 300_000

    run(test)


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
WEBSOCKET = (b"Upgrade: websocket", b"Connection: keep-alive", b"Connection: Upgrade")
CHUNKED = (
    b"POST /x HTTP/1.1\r\nHost: h\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n3;y=z\r\ndef\r\n0\r\nX: y\r\n\r\n"
)


@pytest.mark.parametrize("step", [1, 7, 10_000], ids=["byte by byte", "in pieces", "at once"])
@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
def test_an_upgrade_that_is_not_taken_is_ignored_and_the_body_read(offer: tuple[bytes, ...], step: int) -> None:
    async def test() -> None:
        async with serving() as port:
            text = b"".join(
                (
                    post(b"length", *offer),
                    CHUNKED % b"\r\n".join(offer),
                    b"GET /get HTTP/1.1\r\n%s\r\n\r\n" % b"\r\n".join(offer),
                    post(b"", *offer),
                    post(b"after"),
                    post(b"end", *offer, CLOSE),
                )
            )
            answer = await say(port, *(text[start : start + step] for start in range(0, len(text), step)))
        assert statuses(answer) == [200] * 6
        bodies = [part.split(b"\r\n\r\n")[1] for part in answer.split(b"HTTP/1.1 ")[1:]]
        assert bodies == [b"/x length", b"/x abcdef", b"/get ", b"/x ", b"/x after", b"/x end"]

    run(test)


def test_an_upgrade_whose_body_is_expected_or_too_large_is_as_any_other_request() -> None:
    async def test() -> None:
        async with serving(body_bytes=1000) as port:
            assert statuses(await say(port, post(bytes(2000), *H2C))) == [413]
            chunked = CHUNKED.replace(b"0\r\nX: y", b"7d0\r\n%s\r\n0" % bytes(2000).replace(b"\0", b"z"))
            assert statuses(await say(port, chunked % b"\r\n".join(H2C))) == [413]
            head, body = post(b"body", *H2C, b"Expect: 100-continue", CLOSE).split(b"\r\n\r\n")
            answer = await say(port, head + b"\r\n\r\n", body, pause_s=0.1)
            assert statuses(answer) == [100, 200] and answer.endswith(b"/x body")

    run(test)


def test_connect_is_answered_and_what_follows_it_is_not_read() -> None:
    async def test() -> None:
        async with serving() as port:
            answer = await say(port, b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\n" + post(b"x"))
            assert len(statuses(answer)) == 1

    run(test)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"y" * 400_000,
        b"GET /" + b"y" * 400_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 80_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"y" * 400_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: " + b"y" * 400_000,
    ],
    ids=["a header", "a path", "many headers", "a chunk's extension", "a trailer"],
)
def test_a_head_over_the_limit_is_refused(head: bytes) -> None:
    async def test() -> None:
        async with serving(head_bytes=20_000) as port:
            pieces = [head[start : start + 10_000] for start in range(0, len(head), 10_000)]
            assert statuses(await say(port, *pieces, pause_s=0.001)) == [431]

    run(test)


@pytest.mark.parametrize("declared", [True, False], ids=["by its length", "by its chunks"])
def test_a_body_over_the_limit_is_refused_and_the_connection_closed(declared: bool) -> None:
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"258\r\n%s\r\n" % bytes(600) * 2

    async def test() -> None:
        async with serving(body_bytes=1000) as port:
            answer = await say(port, post(bytes(1001)) if declared else chunked)
        assert statuses(answer) == [413]
        assert b"connection: close" in answer and answer.endswith(b"body: larger than 1000 bytes")

    run(test)


def test_bodies_that_together_are_over_the_limit_wait_for_no_memory() -> None:
    async def test() -> None:
        async with serving(held_bytes=1000) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(bytes(900))[:-1])
            await asyncio.sleep(0.1)
            assert statuses(await say(port, post(bytes(200), CLOSE))) == [503]
            writer.close()
            await asyncio.sleep(0.1)
            assert statuses(await say(port, post(bytes(200), CLOSE))) == [200]

    run(test)


@pytest.mark.parametrize(
    ("begin", "status"),
    [(b"GE", 408), (b"GET / HTTP/1.1\r\nX", 408), (post(b"ab")[:-1], 408)],
    ids=["a method", "a header", "a body"],
)
def test_what_does_not_come_to_an_end_is_refused_and_others_are_served_meanwhile(begin: bytes, status: int) -> None:
    async def test() -> None:
        async with serving(request_s=0.5) as port:
            slow = asyncio.create_task(say(port, begin))
            while not slow.done():
                assert statuses(await say(port, post(b"x", CLOSE))) == [200]
            assert statuses(await slow) == [status]

    run(test)


def test_a_drip_keeps_no_connection_but_a_large_body_has_its_time() -> None:
    async def test() -> None:
        async with serving(request_s=0.3, body_bytes_per_s=100) as port:
            drip = post(b"a" * 100)
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            assert statuses(await say(port, *(drip[n : n + 1] for n in range(len(drip) - 1)), pause_s=0.05)) == [408]
            large = post(b"a" * 1000, CLOSE)
            assert statuses(await say(port, large[:600], large[600:], pause_s=2.0)) == [200]
            writer.close()

    run(test)


def test_an_idle_connection_stays_until_a_new_one_needs_its_place() -> None:
    async def test() -> None:
        async with serving(connections=2, idle_s=1.0, request_s=0.2) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(b"x"))
            await reader.readuntil(b"/x x")
            other = await asyncio.open_connection("127.0.0.1", port)
            assert statuses(await say(port)) == [503]  # none has been idle for long
            await asyncio.sleep(1.5)
            assert statuses(await say(port, post(b"x", CLOSE))) == [200]  # in place of the oldest
            assert await reader.read() == b""
            other[1].write(post(b"y", CLOSE))
            assert statuses(await other[0].read()) == [200]
            writer.close()
            other[1].close()

    run(test)


def test_a_client_that_does_not_read_is_cut() -> None:
    async def test() -> None:
        async with serving(write_s=0.3) as port:
            with socket.create_connection(("127.0.0.1", port)) as client:
                await asyncio.to_thread(client.sendall, post(bytes(30 << 20)))
                await asyncio.sleep(2)
                received = 0
                while piece := await asyncio.to_thread(client.recv, 1 << 20):
                    received += len(piece)
        assert received < 30 << 20

    run(test)


def test_answers_that_nobody_reads_are_not_begun() -> None:
    async def test() -> None:
        begun = 0

        async def large(request: Request) -> Reply:
            nonlocal begun
            begun += 1
            return 200, [], [bytes(1 << 20)]

        async with serving(large) as port:
            with socket.create_connection(("127.0.0.1", port)) as client:
                await asyncio.to_thread(client.sendall, post(b"x") * 89 + post(b"x", CLOSE))
                before = -1
                while begun > before:
                    before = begun
                    await asyncio.sleep(0.3)
                assert 0 < begun < 60  # what the buffers of both sockets take
                received = 0
                while piece := await asyncio.to_thread(client.recv, 1 << 20):
                    received += len(piece)
        assert begun == 90 and received > 90 << 20

    run(test)


def test_an_answer_before_the_end_of_the_request_reaches_the_client() -> None:
    async def test() -> None:
        async with serving() as port:
            answer = await say(port, *([post(bytes(3 << 20), path=b"/unread")[:-1]]))
        assert statuses(answer) == [404] and answer.endswith(b"unread")

    run(test)


@pytest.mark.parametrize(
    "bad",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_a_bad_request(bad: bytes) -> None:
    async def test() -> None:
        async with serving() as port:
            assert statuses(await say(port, bad)) == [400]

    run(test)
