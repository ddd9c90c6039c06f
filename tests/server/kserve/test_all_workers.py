from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadproof_server.dataplane.metrics import Metrics
from loadproof_server.dataplane.plane import Plane
from loadproof_server.errors import NotFound, ReloadFailed, Unavailable
from loadproof_server.kserve import all_workers
from loadproof_server.kserve.all_workers import AllWorkers
from loadproof_server.repository.loader import Loader
from loadproof_server.repository.settings import Configuration, ModelSettings
from tests.server.small_models import run, scale_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    return ModelSettings("m", scale_model(tmp_path_factory.mktemp("models") / "m", 2))


class Worker:
    """A worker of this process, whose models a test may change."""

    def __init__(self, others: list[str], *models: ModelSettings) -> None:
        self.models = models
        self.plane = Plane(Metrics())
        self.loader = Loader(self.plane, lambda: Configuration(self.models))
        self.all = AllWorkers(self.plane, self.loader, others)

    def count(self, requests: int) -> None:
        metrics = self.plane.model("m").metrics
        metrics.interfaces["gRPC"].success += requests
        metrics.last_inference_ms = 1000 * requests


@asynccontextmanager
async def three(model: ModelSettings) -> AsyncIterator[list[Worker]]:
    addresses = [f"\0{secrets.token_hex(16)}" for _ in range(3)]
    workers = [Worker([other for other in addresses if other != own], model) for own in addresses]
    for worker, address in zip(workers, addresses, strict=True):
        await worker.loader.start()
        await worker.all.listen(address)
    try:
        yield workers
    finally:
        for worker in workers:
            await worker.all.close()
            await worker.loader.close()


def test_any_worker_adds_up_what_all_have_counted(model: ModelSettings) -> None:
    async def test() -> None:
        async with three(model) as workers:
            for number, worker in enumerate(workers, 1):
                worker.count(number)
            texts = {await worker.all.metrics() for worker in workers}
            assert len(texts) == 1
            labels = b'api="KServe",interface="gRPC",method="ModelInfer",name="m",version="1"'
            assert b"\novms_requests_success{%s} 6\n" % labels in texts.pop()
            for worker in workers:
                (row,) = await worker.all.statistics("m")
                assert (row["inference_count"], row["last_inference"], row["name"]) == (6, 3000, "m")
                assert row["inference_stats"]["compute_input"]["count"] == 6
            with pytest.raises(NotFound, match="version '2'"):
                await worker.all.statistics("m", "2")

    run(test)


def test_a_reload_reaches_all_workers_and_any_failure_is_reported(model: ModelSettings) -> None:
    second = ModelSettings("n", model.base_path)
    broken = ModelSettings("n", Path("none"))

    async def test() -> None:
        async with three(model) as workers:
            assert not await workers[0].all.reload()
            workers[2].models = (model, second)
            assert await workers[0].all.reload()
            assert workers[2].plane.model("n").name == "n"
            workers[1].models = workers[2].models = (model, broken)
            with pytest.raises(ReloadFailed, match=r"^--model_path: none does not exist$"):
                await workers[0].all.reload()
            for worker in workers:
                (row,) = (await worker.all.status())["n"]["model_version_status"][-1:]
                assert row["status"]["error_message"] == "--model_path: none does not exist"
                assert (await worker.all.status())["m"]["model_version_status"][0]["state"] == "AVAILABLE"

    run(test)


def test_a_worker_that_hangs_does_not_hold_a_reload_for_ever(
    model: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_workers, "_RELOAD_TIMEOUT_S", 0.2)

    async def test() -> None:
        async with three(model) as (one, hung, _):
            monkeypatch.setattr(hung.loader, "reload", asyncio.Event().wait)
            with pytest.raises(Unavailable, match="another worker of this server does not answer"):
                await one.all.reload()

    run(test)


def test_no_sum_without_an_answer_of_each_worker_or_of_another_user(
    model: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with three(model) as (one, _, gone):
            await gone.all.close()
            with pytest.raises(Unavailable, match="another worker of this server does not answer"):
                await one.all.metrics()
        async with three(model) as (one, *_):
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
            with pytest.raises(Unavailable, match="another worker of this server does not answer"):
                await one.all.metrics()

    run(test)


def test_a_client_that_leaves_in_the_middle_of_a_question_is_ignored(
    model: ModelSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with three(model) as workers:
            for piece in (b"", b'["metr'):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(workers[0].all._others[0])
                    client.sendall(piece)
            await workers[0].all.metrics()

    run(test)
    assert caplog.records == []
