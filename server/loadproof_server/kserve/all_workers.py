"""What a client may ask any worker and means the whole server: metrics, statistics, configuration status, reload.

The worker that a client asks asks all others and merges the answers; a server of one process answers alone. Polling is
not shared: each worker looks for changed files itself, so for up to that interval and a compilation the workers may
serve different versions. A reload that was asked for is answered when all workers have made it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

from loadproof_server.connections import worker_socket
from loadproof_server.dataplane import metrics
from loadproof_server.dataplane.plane import Plane
from loadproof_server.errors import NotFound, ReloadFailed
from loadproof_server.kserve import triton
from loadproof_server.repository.loader import Loader

_TIMEOUT_S: Final = 10.0
_RELOAD_TIMEOUT_S: Final = 600.0  # a reload may compile models


class AllWorkers:
    """This worker, and the others by their addresses."""

    def __init__(self, plane: Plane, loader: Loader | None = None, others: Sequence[str] = ()) -> None:
        self._plane, self.loader, self._others = plane, loader, others

    async def listen(self, address: str) -> None:
        """Answers the others from now on."""
        self._server = await worker_socket.serve(address, self._answer)

    async def close(self) -> None:
        self._server.close()

    # ---- of the whole server ----

    async def metrics(self) -> bytes:
        """The Prometheus text of all workers, added up."""
        return metrics.total([text.encode() for text in await self._ask_all("metrics")])

    async def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """ModelStatistics, added up; raises NotFound."""
        triton.statistics(self._plane, name, version)
        return triton.total(await self._ask_all("statistics", name, version))

    async def status(self) -> dict[str, Any]:
        """OVMS's answer to GET /v1/config; each version has the row of the worker that is furthest from serving it."""
        return _merged_status(await self._ask_all("status"))

    async def reload(self) -> bool:
        """Whether any worker changed, once all have reloaded. Raises ReloadFailed, Unavailable."""
        outcomes = await self._ask_all("reload", timeout_s=_RELOAD_TIMEOUT_S)
        if errors := dict.fromkeys(outcome["error"] for outcome in outcomes if outcome["error"]):
            raise ReloadFailed("; ".join(errors))
        return any(outcome["changed"] for outcome in outcomes)

    async def _ask_all(self, question: str, *arguments: str, timeout_s: float = _TIMEOUT_S) -> list[Any]:
        """The answers of all workers, this one's first, once all have answered; raises Unavailable."""
        own = self._answer(question, *arguments)
        if not self._others:
            return [await own]
        asked = (worker_socket.ask(address, [question, *arguments], timeout_s) for address in self._others)
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
            except NotFound:  # the version was unloaded meanwhile
                return []
        assert self.loader
        if question == "status":
            return self.loader.status()
        assert question == "reload", question
        try:
            return {"changed": await self.loader.reload(), "error": ""}
        except ReloadFailed as error:
            return {"changed": False, "error": str(error)}


def _merged_status(statuses: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for status in statuses:
        for name, model in status.items():
            rows = found.setdefault(name, {})
            for row in model["model_version_status"]:
                rows[row["version"]] = max(rows.get(row["version"], row), row, key=_is_behind)
    return {
        name: {"model_version_status": [rows[version] for version in sorted(rows, key=int)]}
        for name, rows in found.items()
    }


def _is_behind(row: dict[str, Any]) -> tuple[bool, bool]:
    """Ordered: a version that is not served is further behind than one whose last reload failed."""
    return row["state"] != "AVAILABLE", row["status"]["error_code"] != "OK"
