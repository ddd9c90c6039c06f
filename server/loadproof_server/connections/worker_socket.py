"""Questions that the workers of a server ask each other: JSON over Unix sockets, one connection for each question.

The sockets are in Linux's abstract namespace: they end with their process and leave no file behind. Only processes of
the same user are answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from loadproof_server.errors import Unavailable

CONNECT_TIMEOUT_S: Final = 10.0
_CREDENTIALS: Final = struct.Struct("3i")  # process, user and group of the socket's other end


async def serve(address: str, answer: Callable[..., Awaitable[Any]]) -> asyncio.Server:
    """Answers the questions that come to the address, as `answer(*question)` says."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _is_same_user(writer):
                found = await answer(*json.loads(await reader.read()))
                writer.write(json.dumps(found).encode())
                await writer.drain()
        except (OSError, ValueError):
            pass  # the other end closed the connection before the question or the answer was complete
        finally:
            writer.close()

    return await asyncio.start_unix_server(on_connection, address)


async def ask(address: str, question: Sequence[str], timeout_s: float) -> Any:
    """The answer of the worker at the address; raises Unavailable where there is none in time."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await _connect(address)
        try:
            if not _is_same_user(writer):
                raise ConnectionError
            writer.write(json.dumps(question).encode())
            writer.write_eof()
            async with asyncio.timeout(timeout_s):
                return json.loads(await reader.read())
        finally:
            writer.close()
    except (OSError, ValueError):  # ValueError: the answer is incomplete
        raise Unavailable("another worker of this server does not answer; try again later") from None


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket(socket.AF_UNIX)  # our own, because uvloop's cannot reach an abstract address
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, address)
        return await asyncio.open_unix_connection(sock=connection)
    except BaseException:
        connection.close()
        raise


def _is_same_user(writer: asyncio.StreamWriter) -> bool:
    """Whether the process at the other end runs as this process's user."""
    end = writer.get_extra_info("socket")
    _, user, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(user == os.geteuid())
