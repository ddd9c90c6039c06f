"""Versions that are broken or still being copied, at the start and while others serve; weights in other files."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from loadproof_server.engine.requests import Engine
from loadproof_server.errors import StartError
from loadproof_server.repository.versions import ALL_VERSIONS, VersionPolicy
from tests.server.onnx_models import chain, save_onnx
from tests.server.repository.test_loader import Bench, run, settings
from tests.server.small_models import scale_model


@pytest.fixture
def double(tmp_path: Path) -> Path:
    return scale_model(tmp_path / "double", 2)


def broken(path: Path, version: str, file: str) -> Path:
    """A version as it is while it is being copied."""
    (path / version).mkdir(parents=True)
    if file != "nothing":
        (path / version / "model.xml").write_text(file)
    return path


HALVES = pytest.mark.parametrize("file", ["nothing", "<net"])


@HALVES
def test_a_start_serves_what_loads_and_reports_the_rest(double: Path, tmp_path: Path, file: str) -> None:
    async def body(bench: Bench) -> None:
        assert [model.name for model in bench.plane.models] == ["m", "k"]
        assert [await bench.answer(name) for name in "mk"] == [2, 2]
        ((version, state, message),) = bench.status("n")
        assert (version, state) == ("1", "LOADING")
        assert message.startswith("model n: ") and ("no model file" in message or "does not load on CPU" in message)
        assert bench.status("none") == [("0", "LOADING", f"model none: base_path: {tmp_path / 'none'} does not exist")]
        (tmp_path / "broken" / "1").rename(tmp_path / "old")
        scale_model(tmp_path / "broken", 3)
        del bench.wanted["none"]
        assert await bench.loader.reload() is True
        assert await bench.answer("n") == 3
        assert bench.status("n") == [("1", "AVAILABLE", "OK")]

    n = broken(tmp_path / "broken", "1", file)
    run(Bench(m=double, n=n, none=tmp_path / "none", k=double), body)


@HALVES
def test_a_start_serves_the_latest_versions_that_load(double: Path, file: str) -> None:
    async def body(bench: Bench) -> None:
        assert await bench.answer() == 2
        assert [row[:2] for row in bench.status()] == [("1", "AVAILABLE"), ("3", "LOADING"), ("4", "LOADING")]
        engine = bench.plane.model("m").engine
        await bench.refusal()
        assert bench.plane.model("m").engine is engine
        for version in ("3", "4"):
            shutil.rmtree(double / version)
        assert await bench.loader.reload() is False
        assert bench.status() == [("1", "AVAILABLE", "OK")]
        broken(double, "4", file)
        await bench.refusal()
        assert [row[:2] for row in bench.status()] == [("1", "AVAILABLE"), ("4", "LOADING")]
        shutil.rmtree(double / "4")
        scale_model(double, 4, "4")
        assert await bench.loader.reload() is True
        assert [model.version for model in bench.plane.models] == ["4"]
        await bench.settle("END")
        assert bench.status() == [("1", "END", "OK"), ("4", "AVAILABLE", "OK")]

    broken(broken(double, "3", "<net"), "4", file)
    run(Bench(m=double), body)


def test_as_many_versions_are_served_as_the_policy_wants_while_some_do_not_load(double: Path) -> None:
    async def body(bench: Bench) -> None:
        assert [model.version for model in bench.plane.models] == ["2", "3"]
        shutil.rmtree(double / "4")
        assert await bench.loader.reload() is False
        assert [model.version for model in bench.plane.models] == ["2", "3"]

    for version, factor in (("2", 5), ("3", 7)):
        scale_model(double, factor, version)
    run(Bench(m=settings(broken(double, "4", "<net"), VersionPolicy(latest=2))), body)


@pytest.mark.parametrize("policy", [ALL_VERSIONS, VersionPolicy(specific=(1, 2)), VersionPolicy(specific=(1, 5))])
def test_versions_that_were_named_are_served_as_far_as_they_load(double: Path, policy: VersionPolicy) -> None:
    async def body(bench: Bench) -> None:
        assert [model.version for model in bench.plane.models] == ["1"]
        assert [row[1] for row in bench.status()] == ["AVAILABLE", "LOADING"]

    run(Bench(m=settings(broken(double, "2", "nothing"), policy)), body)


@HALVES
def test_a_start_that_needs_a_model_fails_with_the_reason_where_none_loads(tmp_path: Path, file: str) -> None:
    bench = Bench(n=broken(broken(tmp_path / "broken", "1", file), "2", file))

    async def start() -> Any:
        try:
            await bench.loader.start(need_model=True)
        finally:
            await bench.loader.close()

    with pytest.raises(StartError, match=r"model n: .*broken/2.*(no model file|does not load on CPU)"):
        asyncio.run(start())


def weighted(path: Path, factor: float, version: str = "1") -> Path:
    """y = factor * x, with the factor in a file of its own."""
    weights = np.eye(4, dtype=np.float32) * np.float32(factor)
    nodes = chain(("MatMul", "x,w", "y"))
    return save_onnx(path, nodes, {"x": (1, 4)}, {"y": (1, 4)}, {"w": weights}, version=version, weights="weights.bin")


@pytest.mark.parametrize("alone", [False, True], ids=["a version", "a lone file"])
def test_weights_in_a_file_of_another_name_are_noticed_by_polling_and_reload(tmp_path: Path, alone: bool) -> None:
    async def body(bench: Bench) -> None:
        assert await bench.answer() == 2
        weighted(tmp_path / "new", 3)
        shutil.copyfile(tmp_path / "new" / "1" / "weights.bin", model / "1" / "weights.bin")
        assert await bench.answer() == 2
        assert await bench.loader.reload() is True
        assert await bench.answer() == 3
        poll = asyncio.create_task(bench.loader.poll(0.01))
        weighted(tmp_path / "newer", 5)
        shutil.copyfile(tmp_path / "newer" / "1" / "weights.bin", model / "1" / "weights.bin")
        while await bench.answer() != 5:
            await asyncio.sleep(0.01)
        poll.cancel()
        assert await bench.loader.reload() is False

    model = weighted(tmp_path / "m", 2)
    run(Bench(m=model / "1" / "model.onnx" if alone else model), body)


@pytest.mark.parametrize("build", [weighted, scale_model])
def test_a_version_that_is_copied_slowly_is_loaded_when_it_is_whole(
    double: Path, tmp_path: Path, build: Callable[[Path, float, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    async def body(bench: Bench) -> None:
        poll = asyncio.create_task(bench.loader.poll(0.05))
        source, target = build(tmp_path / "new", 7, "2") / "2", double / "2"
        target.mkdir()
        for file in sorted(source.iterdir(), key=lambda path: path.suffix == ".bin"):  # the graph before its weights
            content = file.read_bytes()
            with (target / file.name).open("wb", buffering=0) as copy:
                for start in range(0, len(content), 1 + len(content) // 4):
                    copy.write(content[start : start + 1 + len(content) // 4])
                    await asyncio.sleep(0.03)
        while await bench.answer() != 7:
            await asyncio.sleep(0.01)
        assert [row[:2] for row in bench.status() if row[0] == "2"] == [("2", "AVAILABLE")]
        poll.cancel()

    run(Bench(m=double), body)
    assert sum("does not load" in record.message for record in caplog.records) <= 1  # not for each piece


def test_weights_that_are_overwritten_or_cut_short_change_nothing_until_they_are_loaded(tmp_path: Path) -> None:
    """A mapped file would: the constant of this addition is used as it lies in the file."""
    one = np.full((64, 1024), 2, np.float32)
    nodes = chain(("Add", "x,w", "y"))
    model = save_onnx(tmp_path / "m", nodes, {"x": one.shape}, {"y": one.shape}, {"w": one}, weights="w.bin")
    ir = tmp_path / "ir" / "1" / "model.xml"
    ov.save_model(ov.Core().read_model(model / "1" / "model.onnx"), ir, compress_to_fp16=False)
    for file, weights in ((model / "1" / "model.onnx", model / "1" / "w.bin"), (ir, ir.with_suffix(".bin"))):
        engine = Engine(file)
        before = engine.infer([one], [0]).outputs[0].raw
        with weights.open("r+b") as opened:
            opened.write(bytes(one.nbytes))
        assert engine.infer([one], [0]).outputs[0].raw == before
        os.truncate(weights, 0)
        assert engine.infer([one], [0]).outputs[0].raw == before
        engine.close()
