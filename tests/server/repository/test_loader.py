"""The loader in this process, over real engines; what clients see of a reload is in test_reload.py."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from loadproof_server.dataplane.inputs import InputTensor
from loadproof_server.dataplane.metrics import Metrics
from loadproof_server.dataplane.plane import Plane
from loadproof_server.errors import NotFound, ReloadFailed, StartError
from loadproof_server.repository.loader import Loader
from loadproof_server.repository.settings import Configuration, ModelSettings
from loadproof_server.repository.versions import ALL_VERSIONS, VersionPolicy
from loadproof_server.tensors import codec
from tests.server.small_models import scale_model


def settings(path: Path, policy: VersionPolicy) -> ModelSettings:
    return ModelSettings("m", path, version_policy=policy, path_key="model m: base_path")


Body = Callable[["Bench"], Awaitable[None]]


class Bench:
    """A loader whose configuration is `wanted`: models' directories or settings by name."""

    def __init__(self, **wanted: Path | ModelSettings) -> None:
        self.wanted: dict[str, Path | ModelSettings] = wanted
        self.broken = ""
        self.reads = 0
        self.plane = Plane(Metrics())
        self.loader = Loader(self.plane, self.configuration)

    def configuration(self) -> Configuration:
        self.reads += 1
        if self.broken:
            raise StartError(self.broken)
        return Configuration(
            tuple(
                ModelSettings(name, given, path_key=f"model {name}: base_path") if isinstance(given, Path) else given
                for name, given in self.wanted.items()
            )
        )

    def status(self, name: str = "m") -> list[tuple[str, str, str]]:
        rows = self.loader.status()[name]["model_version_status"]
        return [(row["version"], row["state"], row["status"]["error_message"]) for row in rows]

    async def answer(self, name: str = "m", version: str = "") -> float:
        """What the model makes of 1."""
        tensor = InputTensor("x", "FP32", (1, 4), np.ones(4, np.float32).tobytes(), codec.from_raw)
        with self.plane.call("gRPC") as call:
            answer = await call.model(name, version).infer([tensor], [])
        return float(np.frombuffer(answer.outputs[0].raw, np.float32)[0])

    async def refusal(self) -> str:
        with pytest.raises(ReloadFailed) as caught:
            await self.loader.reload()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    async def settle(self, state: str, name: str = "m") -> None:
        while state not in [row[1] for row in self.status(name)]:
            await asyncio.sleep(0.01)


def run(bench: Bench, body: Body) -> None:
    async def whole() -> None:
        await bench.loader.start()
        await body(bench)
        await bench.loader.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


@pytest.fixture
def double(tmp_path: Path) -> Path:
    return scale_model(tmp_path / "double", 2)


@pytest.fixture
def triple(tmp_path: Path) -> Path:
    return scale_model(tmp_path / "triple", 3)


def test_what_has_not_changed_is_not_loaded_again(double: Path) -> None:
    async def body(bench: Bench) -> None:
        engine = bench.plane.model("m").engine
        assert await bench.loader.reload() is False
        assert bench.plane.model("m").engine is engine
        assert bench.status() == [("1", "AVAILABLE", "OK")]

    run(Bench(m=double), body)


def test_other_settings_are_another_engine_whose_requests_count_on(double: Path) -> None:
    async def body(bench: Bench) -> None:
        metrics = bench.plane.model("m").metrics
        assert (await bench.answer(), metrics.streams) == (2, 1)
        bench.wanted["m"] = ModelSettings("m", double, nireq=3, plugin_config={"NUM_STREAMS": 2})
        assert await bench.loader.reload() is True
        assert await bench.answer() == 2
        model = bench.plane.model("m")
        assert (model.engine.nireq, model.engine.streams) == (3, 2)
        assert model.metrics is metrics
        assert (metrics.streams, metrics.interfaces["gRPC"].success) == (2, 2)

    run(Bench(m=double), body)


def test_a_new_version_is_served_and_the_old_one_ends(double: Path) -> None:
    async def body(bench: Bench) -> None:
        old = bench.plane.model("m").metrics
        scale_model(double, 5, "2")
        assert await bench.loader.reload() is True
        assert (await bench.answer(), bench.plane.model("m").version) == (5, "2")
        await bench.settle("END")
        assert bench.status() == [("1", "END", "OK"), ("2", "AVAILABLE", "OK")]
        assert old.streams == 0
        shutil.rmtree(double / "2")
        assert await bench.loader.reload() is True
        assert (await bench.answer(), old.streams) == (2, 1)

    run(Bench(m=double), body)


def test_all_versions_are_served_and_each_is_asked_by_its_number(double: Path) -> None:
    async def body(bench: Bench) -> None:
        assert [model.version for model in bench.plane.models] == ["1", "7", "10"]
        assert [await bench.answer(version=version) for version in ("", "1", "7", "10")] == [10, 2, 7, 10]
        with pytest.raises(NotFound, match=r"^version '2' of model m: unknown; this server has 1, 7, 10$"):
            await bench.answer(version="2")
        seven = bench.plane.model("m", "7").engine
        bench.wanted["m"] = settings(double, VersionPolicy(specific=(1, 7)))
        assert await bench.loader.reload() is True
        assert [await bench.answer(version=version) for version in ("", "1", "7")] == [7, 2, 7]
        assert bench.plane.model("m", "7").metrics is bench.plane.model("m").metrics
        bench.wanted["m"] = settings(double, VersionPolicy(latest=2))
        assert await bench.loader.reload() is True
        assert [model.version for model in bench.plane.models] == ["7", "10"]
        await bench.settle("END")
        assert bench.status() == [("1", "END", "OK"), ("7", "AVAILABLE", "OK"), ("10", "AVAILABLE", "OK")]
        assert bench.plane.model("m", "7").engine is not seven  # other settings are another engine

    scale_model(double, 10, "10")
    scale_model(double, 7, "7")
    run(Bench(m=settings(double, ALL_VERSIONS)), body)


def test_no_version_goes_while_another_of_its_model_fails(double: Path) -> None:
    async def body(bench: Bench) -> None:
        (double / "2").mkdir()
        (double / "2" / "model.xml").write_text("<net")
        scale_model(double, 3, "3")
        bench.wanted["m"] = settings(double, VersionPolicy(latest=2))
        assert "does not load" in await bench.refusal()
        assert [model.version for model in bench.plane.models] == ["1", "3"]
        assert [row[1] for row in bench.status()] == ["AVAILABLE", "LOADING", "AVAILABLE"]
        shutil.rmtree(double / "2")
        scale_model(double, 2, "2")
        assert await bench.loader.reload() is True
        assert [model.version for model in bench.plane.models] == ["2", "3"]
        await bench.settle("END")

    run(Bench(m=double), body)


def test_a_specific_version_that_is_missing_keeps_what_is_served(double: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.wanted["m"] = settings(double, VersionPolicy(specific=(1, 2)))
        message = f"model m: base_path: {double} has no version 2, only 1; mend model_version_policy"
        assert await bench.refusal() == message
        assert bench.status() == [("1", "AVAILABLE", "OK"), ("2", "LOADING", message)]
        scale_model(double, 5, "2")
        assert await bench.loader.reload() is True
        assert await bench.answer() == 5

    run(Bench(m=double), body)


def test_weights_that_were_replaced_in_place_are_loaded(double: Path, triple: Path) -> None:
    async def body(bench: Bench) -> None:
        for name in ("model.bin", "model.xml"):
            (triple / "1" / name).replace(double / "1" / name)
        assert await bench.loader.reload() is True
        assert await bench.answer() == 3

    run(Bench(m=double), body)


def test_a_request_in_flight_keeps_its_engine_which_is_closed_after_it(double: Path, triple: Path) -> None:
    async def body(bench: Bench) -> None:
        with bench.plane.call("REST") as call:
            old = call.model("m", "")
            bench.wanted["m"] = triple
            assert await bench.loader.reload() is True
            assert await bench.answer() == 3
            assert old.engine.infer([np.ones((1, 4), np.float32)], [0]).outputs[0].raw == np.full(4, 2, "f4").tobytes()
            assert old.metrics.current_requests == 1
        while old.engine.running:
            await asyncio.sleep(0.01)
        assert old.metrics.current_requests == 0

    run(Bench(m=double), body)


def test_a_model_that_vanishes_ends_with_its_last_request(double: Path, triple: Path) -> None:
    async def body(bench: Bench) -> None:
        with bench.plane.call("gRPC") as call:
            model = call.model("n", "")
            del bench.wanted["n"]
            assert await bench.loader.reload() is True
            assert [model.name for model in bench.plane.models] == ["m"]
            await asyncio.sleep(0.1)  # far longer than an idle engine takes to close
            assert bench.status("n") == [("1", "UNLOADING", "OK")]
            assert model.engine.running
        await bench.settle("END", "n")
        bench.broken = "config.json: broken JSON"
        await bench.refusal()
        assert bench.status("n") == [("1", "END", "OK")]
        bench.broken = ""
        assert not model.engine.running
        assert model.metrics.interfaces["gRPC"].success == 1
        bench.wanted["n"] = triple
        assert await bench.loader.reload() is True
        assert await bench.answer("n") == 3
        assert bench.plane.model("n").metrics is model.metrics

    run(Bench(m=double, n=triple), body)


def test_a_broken_configuration_changes_nothing_and_is_reported_until_it_is_repaired(double: Path) -> None:
    async def body(bench: Bench) -> None:
        engine = bench.plane.model("m").engine
        bench.broken = "config.json: broken JSON"
        assert await bench.refusal() == "config.json: broken JSON"
        assert bench.status() == [("1", "AVAILABLE", "config.json: broken JSON")]
        assert bench.plane.model("m").engine is engine
        bench.broken = ""
        assert await bench.loader.reload() is False
        assert bench.status() == [("1", "AVAILABLE", "OK")]

    run(Bench(m=double), body)


def test_a_model_that_does_not_load_leaves_the_old_one_and_the_others_go_on(
    double: Path, triple: Path, tmp_path: Path
) -> None:
    async def body(bench: Bench) -> None:
        (double / "2").mkdir()
        (double / "2" / "model.xml").write_text("<net")
        bench.wanted["n"] = double.parent / "none"
        bench.wanted["k"] = triple
        message = await bench.refusal()
        assert f"model m: {double / '2' / 'model.xml'} does not load on CPU: " in message
        assert f"; model n: base_path: {tmp_path / 'none'} does not exist" in message
        assert [await bench.answer(name) for name in "mnk"] == [2, 3, 3]
        (one, two), (three,) = bench.status("m"), bench.status("n")
        assert one == ("1", "AVAILABLE", "OK")
        assert two[:2] == ("2", "LOADING") and "does not load" in two[2]
        assert three == ("1", "AVAILABLE", f"model n: base_path: {tmp_path / 'none'} does not exist")
        assert bench.status("k") == [("1", "AVAILABLE", "OK")]

    run(Bench(m=double, n=triple), body)


def test_a_model_that_never_loaded_is_reported_as_loading(double: Path, tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.wanted["n"] = tmp_path / "none"
        message = await bench.refusal()
        assert bench.status("n") == [("0", "LOADING", message)]
        del bench.wanted["n"]
        assert await bench.loader.reload() is False
        assert list(bench.loader.status()) == ["m"]

    run(Bench(m=double), body)


def test_settings_that_failed_and_were_taken_back_cost_no_load(double: Path) -> None:
    async def body(bench: Bench) -> None:
        engine = bench.plane.model("m").engine
        bench.wanted["m"] = ModelSettings("m", double, plugin_config={"NO_SUCH": 1})
        assert "NO_SUCH" in await bench.refusal()
        assert "NO_SUCH" in bench.status()[0][2]
        bench.wanted["m"] = double
        assert await bench.loader.reload() is False
        assert bench.plane.model("m").engine is engine
        assert bench.status() == [("1", "AVAILABLE", "OK")]

    run(Bench(m=double), body)


def test_polling_logs_a_failure_once_and_finds_its_repair(double: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench) -> None:
        (double / "2").mkdir()
        (double / "2" / "model.xml").write_text("<net")
        poll = asyncio.create_task(bench.loader.poll(0.01))
        reads = bench.reads
        while bench.reads < reads + 5:
            await asyncio.sleep(0.01)
        assert sum("does not load" in record.message for record in caplog.records) == 1
        shutil.rmtree(double / "2")
        scale_model(double, 7, "2")
        while await bench.answer() != 7:
            await asyncio.sleep(0.01)
        poll.cancel()

    run(Bench(m=double), body)


def test_concurrent_reloads_are_one_load(double: Path, triple: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.wanted["m"] = triple
        changed = await asyncio.gather(*(bench.loader.reload() for _ in range(8)))
        assert sorted(changed) == [False] * 7 + [True]

    run(Bench(m=double), body)


def test_a_reload_whose_client_goes_away_ends_all_the_same(double: Path, triple: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.wanted["m"] = triple
        task = asyncio.create_task(bench.loader.reload())
        await asyncio.sleep(0)
        task.cancel()
        while await bench.answer() != 3:
            await asyncio.sleep(0.01)

    run(Bench(m=double), body)


def test_a_server_that_stops_loads_nothing_more(double: Path, triple: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.wanted["m"] = triple
        bench.loader.stop()
        assert await bench.refusal() == "the server is stopping"
        assert await bench.answer() == 2

    run(Bench(m=double), body)
