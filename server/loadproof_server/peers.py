"""What a client may ask of any worker and is meant for the whole server: metrics, statistics, configuration, reload.

The worker that is asked asks all others and puts the answers together; a server of one process asks nobody. Workers
listen at Unix sockets in Linux's abstract namespace, which end with them and leave no file behind, and answer their own
user alone; a question is a connection, and JSON. Not shared is polling: each worker looks for changed files itself, so
for that interval and a compilation they may serve different versions; a reload that was asked for is answered when all
have made it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from loadproof_server import metrics, triton
from loadproof_server.errors import NotFound, ReloadFailed, Unavailable
from loadproof_server.loader import Loader
from loadproof_server.plane import Plane

_PATIENCE_S: Final = 10.0
_RELOAD_PATIENCE_S: Final = 600.0  # it may compile models
_CREDENTIALS: Final = struct.Struct("3i")  # process, user and group of the socket's other end


class Peers:
    """A worker, and the others by their addresses."""

    def __init__(self, plane: Plane, loader: Loader | None = None, others: Sequence[str] = ()) -> None:
        self._plane, self.loader, self._others = plane, loader, others

    async def listen(self, address: str) -> None:
        """Answers the others from now on."""
        self._server = await asyncio.start_unix_server(self._serve, address)

    async def close(self) -> None:
        self._server.close()

    # ---- of the whole server ----

    async def metrics(self) -> bytes:
        """The Prometheus text of all workers, added up."""
        return metrics.total([text.encode() for text in await self._all("metrics")])

    async def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """ModelStatistics, added up; raises NotFound."""
        triton.statistics(self._plane, name, version)
        return triton.total(await self._all("statistics", name, version))

    async def status(self) -> dict[str, Any]:
        """OVMS's answer to GET /v1/config; of a version, what the worker says that is furthest from serving it."""
        return _least(await self._all("status"))

    async def reload(self) -> bool:
        """Once all workers are as the configuration says: whether any has changed. Raises ReloadFailed, Unavailable."""
        outcomes = await self._all("reload", patience_s=_RELOAD_PATIENCE_S)
        if errors := dict.fromkeys(outcome["error"] for outcome in outcomes if outcome["error"]):
            raise ReloadFailed("; ".join(errors))
        return any(outcome["changed"] for outcome in outcomes)

    async def _all(self, question: str, *arguments: str, patience_s: float = _PATIENCE_S) -> list[Any]:
        """All workers' answers, this one's first, once all are there; raises Unavailable."""
        own = self._answer(question, *arguments)
        if not self._others:
            return [await own]
        asked = (_ask(address, [question, *arguments], patience_s) for address in self._others)
        answers = await asyncio.gather(own, *asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    # ---- of this worker ----

    async def _answer(self, question: str, *arguments: str) -> Any:
        if question == "metrics":
            return self._plane.metrics.render().decode()
        if question == "statistics":
            try:
                return triton.statistics(self._plane, *arguments)
            except NotFound:  # it has gone meanwhile
                return []
        assert self.loader
        if question == "status":
            return self.loader.status()
        assert question == "reload", question
        try:
            return {"changed": await self.loader.reload(), "error": ""}
        except ReloadFailed as error:
            return {"changed": False, "error": str(error)}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _is_own(writer):
                answer = await self._answer(*json.loads(await reader.read()))
                writer.write(json.dumps(answer).encode())
                await writer.drain()
        except (OSError, ValueError):
            pass  # who asked has gone, before the end of the question or of the answer
        finally:
            writer.close()


async def _ask(address: str, question: Sequence[str], patience_s: float) -> Any:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await _connect(address)
        try:
            if not _is_own(writer):
                raise ConnectionError
            writer.write(json.dumps(question).encode())
            writer.write_eof()
            async with asyncio.timeout(patience_s):
                return json.loads(await reader.read())
        finally:
            writer.close()
    except (OSError, ValueError):  # the latter of an answer that broke off
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


def _is_own(writer: asyncio.StreamWriter) -> bool:
    """Whether the other end is of this process's user."""
    end = writer.get_extra_info("socket")
    _, user, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(user == os.geteuid())


def _least(statuses: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for status in statuses:
        for name, told in status.items():
            rows = found.setdefault(name, {})
            for row in told["model_version_status"]:
                rows[row["version"]] = max(rows.get(row["version"], row), row, key=_distance)
    return {
        name: {"model_version_status": [rows[version] for version in sorted(rows, key=int)]}
        for name, rows in found.items()
    }


def _distance(row: dict[str, Any]) -> tuple[bool, bool]:
    return row["state"] != "AVAILABLE", row["status"]["error_code"] != "OK"
