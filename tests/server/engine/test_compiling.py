"""What is baked into a model before it is compiled, against numpy; and what OpenVINO is asked for."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from loadproof_server.engine.compiling import with_defaults
from loadproof_server.engine.preparation import Preparation
from loadproof_server.engine.requests import Engine
from loadproof_server.errors import InvalidRequest, StartError
from loadproof_server.repository.model_options import READERS
from loadproof_server.tensors.datatypes import Array
from tests.server.small_models import parameter, save


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x + 0.5, [1, 3, 4, 5]."""
    x = parameter("x", ov.Type.f32, [1, 3, 4, 5])
    return save(tmp_path_factory.mktemp("picture") / "m", [x], {"y": op.add(x, op.constant(np.float32(0.5)))})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs of [2, 4]: s = a + b, and a itself turned upside down."""
    a, b = (parameter(name, ov.Type.f32, [2, 4]) for name in "ab")
    return save(tmp_path_factory.mktemp("pair") / "m", [a, b], {"s": op.add(a, b)})


@contextmanager
def engine(model: Path, **flags: Any) -> Iterator[Engine]:
    preparation = Preparation(**{key: READERS[key](value) for key, value in flags.items()})
    made = Engine(model / "1" / "model.xml", preparation=preparation)
    yield made
    made.close()


def run(made: Engine, *arrays: Array) -> Array:
    output = made.infer(list(arrays), [0]).outputs[0]
    return np.frombuffer(output.raw, np.float32).reshape(output.shape)


PIXELS = np.arange(60, dtype=np.uint8).reshape(1, 4, 5, 3)
NCHW = PIXELS.transpose(0, 3, 1, 2)
FLOATS = np.ascontiguousarray(NCHW, np.float32)


def test_bytes_of_images_are_taken_as_they_are(picture: Path) -> None:
    with engine(
        picture,
        layout="NHWC:NCHW",
        precision="UINT8:FP32",
        color_format="BGR:RGB",
        mean="[1,2,3]",
        scale="[2,4,8]",
    ) as made:
        (spec,) = made.inputs
        assert (spec.name, spec.datatype, spec.shape, spec.layout) == ("x", "UINT8", (1, 4, 5, 3), "NHWC")
        assert (made.outputs[0].name, made.outputs[0].shape) == ("y", (1, 3, 4, 5))
        found = run(made, PIXELS)
    expected = (PIXELS[..., ::-1].astype(np.float32) - [1, 2, 3]) / np.array([2, 4, 8], np.float32) + 0.5
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "given", "expected"),
    [
        ({"mean": "10", "scale": "2"}, NCHW.astype("f4"), (NCHW - 10.0) / 2 + 0.5),
        ({"precision": "FP32:UINT8"}, NCHW, NCHW + 0.5),
        ({"precision": "UINT8:FP32", "mean": "10"}, NCHW, NCHW - 9.5),
        ({"color_format": "RGB:BGR"}, NCHW.astype("f4"), NCHW[:, ::-1] + 0.5),
        ({"mean": {"x": [1, 2, 3]}}, NCHW.astype("f4"), NCHW - np.reshape([0.5, 1.5, 2.5], (1, 3, 1, 1))),
        ({"layout": {"y": "NHWC:NCHW"}}, NCHW.astype("f4"), PIXELS + 0.5),
        ({"layout": "NCHW"}, NCHW.astype("f4"), NCHW + 0.5),
    ],
)
def test_each_step_alone_is_what_its_name_says(
    picture: Path, flags: dict[str, Any], given: Array, expected: Array
) -> None:
    with engine(picture, **flags) as made:
        assert [spec.name for spec in (*made.inputs, *made.outputs)] == ["x", "y"]
        np.testing.assert_allclose(run(made, np.ascontiguousarray(given)), expected, rtol=1e-6)


def test_the_batch_is_where_the_layout_has_it(picture: Path, pair: Path) -> None:
    with engine(picture, batch_size="7") as made:
        assert made.inputs[0].shape == (7, 3, 4, 5)
    with engine(pair, batch_size="3", layout={"a": "CN", "b": "CN"}) as made:
        assert [spec.shape for spec in made.inputs] == [(2, 3), (2, 3)]


def test_a_dynamic_batch_takes_any_batch_without_another_load(picture: Path) -> None:
    with engine(picture, batch_size="auto") as made:
        for batch in (1, 5, 2):
            given = np.repeat(NCHW, batch, axis=0).astype("f4")
            np.testing.assert_allclose(run(made, given), given + 0.5)


def test_a_range_of_shapes_is_kept_and_a_shape_outside_is_refused(picture: Path) -> None:
    with engine(picture, shape="(1:2,3,4:8,-1)") as made:
        (spec,) = made.inputs
        assert (spec.shape, spec.limits) == ((-1, 3, -1, -1), ((1, 2), (3, 3), (4, 8), (0, -1)))
        assert [spec.accepts(shape) for shape in ([2, 3, 8, 99], [3, 3, 8, 9], [1, 3, 9, 9], [1, 1, 4, 4])] == [
            True,
            False,
            False,
            False,
        ]
        given = np.ones((2, 3, 8, 9), np.float32)
        np.testing.assert_allclose(run(made, given), given + 0.5)


def test_shapes_are_what_clients_send_and_take_precedence_over_the_batch(picture: Path) -> None:
    with engine(picture, shape="(2,8,9,3)", layout="NHWC:NCHW", batch_size="7") as made:
        assert made.inputs[0].shape == (2, 8, 9, 3)
        given = np.ones((2, 8, 9, 3), np.float32)
        np.testing.assert_allclose(run(made, given), given.transpose(0, 3, 1, 2) + 0.5)


def test_shapes_may_be_given_by_name_and_auto_takes_all(pair: Path) -> None:
    with engine(pair, shape='{"a": "auto", "b": "auto"}') as made:
        for shape in ((1, 1), (5, 6)):
            given = np.ones(shape, np.float32)
            assert run(made, given, given).tolist() == np.full(shape, 2).tolist()
        with pytest.raises(InvalidRequest, match="cannot take these inputs"):
            run(made, np.ones((2, 3), np.float32), np.ones((4, 5), np.float32))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mean": "1"}, "mean: the model has several inputs; give an object of a, b"),
        ({"shape": {"c": "auto"}}, "shape: c is none of a, b"),
        ({"layout": {"t": "NC"}}, "layout: t is none of s, a, b"),
        ({"mean": {"a": [1, 2]}}, "mean: nobody knows which dimension of a has the channels; give layout"),
        ({"precision": {"a": "UINT8:FP16"}}, "precision: the model has FP32, which is neither of UINT8:FP16"),
        ({"shape": {"a": "(3,4)"}}, "shape"),
        ({"layout": {"a": "NCHW"}}, "layout"),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(pair: Path, flags: dict[str, Any], message: str) -> None:
    with (
        pytest.raises(StartError, match=rf"model\.xml does not load on CPU: .*{message}") as caught,
        engine(pair, **flags),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "missing"),
    [
        ("GPU", "GPU"),
        ("GPU.1", r"GPU\.1"),
        ("AUTO:GPU,CPU", "GPU"),
        ("HETERO:GPU,CPU", "GPU"),
        ("MULTI:NPU", "NPU"),
        ("cpu", "cpu"),
        ("x/y", "x/y"),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(picture: Path, device: str, missing: str) -> None:
    have = r"this machine has CPU, and AUTO, HETERO:\.\.\. and MULTI:\.\.\. of these$"
    with pytest.raises(StartError, match=rf"does not load on {device}: {missing} is not here; {have}"):
        Engine(picture / "1" / "model.xml", device)


@pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:CPU", "AUTO:-GPU", "HETERO:CPU", "MULTI:CPU"])
def test_every_kind_of_device_infers(picture: Path, device: str) -> None:
    made = Engine(picture / "1" / "model.xml", device)
    np.testing.assert_allclose(run(made, FLOATS), NCHW + 0.5)
    assert made.streams >= 1
    made.close()


@pytest.mark.parametrize("device", ["AUTO:CPU", "HETERO:CPU", "MULTI:CPU"])
def test_properties_of_a_device_behind_another_are_an_object(picture: Path, device: str) -> None:
    made = Engine(picture / "1" / "model.xml", device, {"DEVICE_PROPERTIES": {"CPU": {"NUM_STREAMS": 2}}})
    assert made.streams == 2
    made.close()


# Every property of the CPU device that can be set (OpenVINO 2026.4), as JSON may have it.
PROPERTIES: dict[str, list[Any]] = {
    "NUM_STREAMS": [2, "2", "AUTO", "NUMA"],
    "INFERENCE_NUM_THREADS": [1, "1"],
    "PERF_COUNT": [True, "YES"],
    "INFERENCE_PRECISION_HINT": ["f32", "bf16", "f16"],
    "PERFORMANCE_HINT": ["THROUGHPUT", "LATENCY", "CUMULATIVE_THROUGHPUT"],
    "EXECUTION_MODE_HINT": ["ACCURACY", "PERFORMANCE"],
    "PERFORMANCE_HINT_NUM_REQUESTS": [4, "4"],
    "ENABLE_CPU_PINNING": [True, False, "NO", "false"],
    "ENABLE_CPU_RESERVATION": [False],
    "SCHEDULING_CORE_TYPE": ["PCORE_ONLY", "ANY_CORE"],
    "MODEL_DISTRIBUTION_POLICY": ["TENSOR_PARALLEL"],
    "ENABLE_HYPER_THREADING": [True, "YES"],
    "CPU_DENORMALS_OPTIMIZATION": [True],
    "LOG_LEVEL": ["LOG_NONE"],
    "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": [0.5, 1],
    "ENABLE_TENSOR_PARALLEL": [False],
    "TBB_PARTITIONER": ["STATIC", "AUTO"],
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": [32, "32"],
    "KV_CACHE_PRECISION": ["u8"],
    "KEY_CACHE_PRECISION": ["u8"],
    "VALUE_CACHE_PRECISION": ["u8"],
    "KEY_CACHE_GROUP_SIZE": [32],
    "VALUE_CACHE_GROUP_SIZE": [32],
    "ENABLE_WEIGHTLESS": [False],
    "DEVICE_ID": [""],
}


def test_every_property_of_the_cpu_is_taken_in_each_of_its_types(picture: Path) -> None:
    for name, values in PROPERTIES.items():
        for value in values:
            made = Engine(picture / "1" / "model.xml", "CPU", {name: value})
            np.testing.assert_allclose(run(made, FLOATS), NCHW + 0.5, rtol=1e-2)
            made.close()


def test_the_list_of_properties_is_openvinos_own() -> None:
    own = ov.Core().get_property("CPU", "SUPPORTED_PROPERTIES")
    assert {name for name, mutability in own.items() if mutability == "RW"} == set(PROPERTIES)


def test_latency_is_the_default_hint_unless_streams_or_a_hint_are_given() -> None:
    assert with_defaults({"INFERENCE_NUM_THREADS": 1}) == {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    for given in ({"NUM_STREAMS": 2}, {"PERFORMANCE_HINT": "THROUGHPUT"}):
        assert with_defaults(given) == given


def test_a_precision_that_the_machine_lacks_is_reported(picture: Path, caplog: pytest.LogCaptureFixture) -> None:
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for hint, capability in (("f32", "FP32"), ("bf16", "BF16"), ("f16", "FP16")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            Engine(picture / "1" / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": hint}).close()
        warnings = [record.getMessage() for record in caplog.records]
        if capability in capabilities:
            assert warnings == []
        else:
            others = "|".join({"f32", "bf16", "f16"} - {hint})  # which one, the processor decides
            assert len(warnings) == 1
            assert re.search(
                f"INFERENCE_PRECISION_HINT {hint} is not to be had here; .* run in ({others})$", warnings[0]
            )


def test_compiled_models_are_kept_where_the_cache_is(picture: Path, tmp_path: Path) -> None:
    for _ in range(2):
        Engine(picture / "1" / "model.xml", "CPU", {"CACHE_DIR": str(tmp_path / "cache")}).close()
        assert len(list((tmp_path / "cache").glob("*.blob"))) == 1
    with pytest.raises(StartError, match=r"does not load on CPU: .*directory"):
        Engine(picture / "1" / "model.xml", "CPU", {"CACHE_DIR": "/proc/none"})
