from __future__ import annotations

from pathlib import Path

import pytest

from loadproof_server.dataplane.inputs import InputTensor
from loadproof_server.dataplane.metrics import Metrics
from loadproof_server.dataplane.plane import Plane
from loadproof_server.engine.preparation import Preparation
from loadproof_server.engine.requests import Engine
from loadproof_server.engine.specs import TensorSpec
from loadproof_server.errors import InvalidRequest
from loadproof_server.repository.model_options import READERS
from loadproof_server.tensors import codec


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (((1, 8), (4, 4)), "[1:8, 4]"),
        (((0, -1), (1, -1), (2, -1)), "[-1, -1, 2:]"),
        (((3, 3),), "[3]"),
        ((), "[]"),
    ],
)
def test_a_specs_sizes_are_written_as_the_flag_takes_them(limits: tuple[tuple[int, int], ...], expected: str) -> None:
    shape = tuple(low if low == high else -1 for low, high in limits)
    assert TensorSpec("x", "FP32", shape, limits).sizes == expected


@pytest.mark.parametrize("flags", [{"shape": "(1:8,4)"}, {"shape": {"x": "(1:8,-1)"}}, {"batch_size": "1:8"}])
def test_a_size_outside_the_range_that_was_given_is_refused_with_the_range(
    models: dict[str, Path], flags: dict[str, object]
) -> None:
    preparation = Preparation(**{key: READERS[key](value) for key, value in flags.items()})
    plane = Plane(Metrics())
    plane.add_model("free", "1", Engine(models["free"] / "1" / "model.xml", preparation=preparation))
    model = plane.model("free")
    for rows in (0, 9):
        tensor = InputTensor("x", "FP32", (rows, 4), bytes(16 * rows), codec.from_raw)
        with pytest.raises(InvalidRequest, match=r"^input x: shape must be \[1:8, (4|-1)\], not \[" + str(rows)):
            model.read_inputs([tensor])
    model.engine.close()
