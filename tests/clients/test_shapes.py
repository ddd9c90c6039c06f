"""Shapes of inputs from metadata, plan and arrays."""

from __future__ import annotations

from typing import Any

import pytest

from loadproof_clients.payloads.shapes import Input, resolve
from loadproof_clients.spec import Load

IMAGE = Input("x", "FP32", (-1, 3, -1, -1))
FIXED = Input("x", "FP32", (4, 8))


def messages(inputs: list[Input], arrays: dict[str, tuple[int, ...]] | None = None, **load: Any) -> list[str]:
    return [f"{mistake.key}: {mistake.message}" for mistake in resolve(inputs, Load(**load), arrays or {})[1]]


def shape(described: Input, array: tuple[int, ...] | None = None, **load: Any) -> tuple[int, ...]:
    shapes, mistakes = resolve([described], Load(**load), {described.name: array} if array else {})
    assert mistakes == []
    return shapes[described.name]


def test_a_dynamic_first_size_is_the_batch_and_the_plan_gives_the_others() -> None:
    assert shape(IMAGE, batch=4, shapes={"x": [1, 3, 48, 192]}) == (4, 3, 48, 192)
    assert shape(IMAGE, batch=4, shapes={"x": [4, 3, 48, 192]}) == (4, 3, 48, 192)
    assert shape(Input("x", "INT64", (-1, 7)), batch=2) == (2, 7)
    assert shape(Input("x", "INT64", ())) == ()


def test_sizes_left_open_are_a_mistake_with_an_example_that_can_be_pasted() -> None:
    assert messages([IMAGE], batch=2) == [
        "load.shapes: x FP32 [-1, 3, -1, -1] leaves sizes open: say them, as in shapes = {x = [2, 3, 224, 224]}"
    ]
    assert 'shapes = {"scale_0.tmp_1" = [1, 16]}' in messages([Input("scale_0.tmp_1", "FP32", (-1, -1))])[0]


@pytest.mark.parametrize("wanted", [[1, 3, 48], [1, 4, 48, 192]], ids=["another rank", "another channel count"])
def test_a_shape_that_the_model_does_not_have_is_named_with_the_model_s(wanted: list[int]) -> None:
    assert messages([IMAGE], shapes={"x": wanted}) == [
        f"load.shapes: found x = {wanted}; the model has x FP32 [-1, 3, -1, -1]"
    ]


def test_shape_and_batch_that_differ_are_a_mistake_and_not_silently_one_of_them() -> None:
    assert "set load.batch = 8" in messages([IMAGE], batch=2, shapes={"x": [8, 3, 48, 192]})[0]


def test_a_model_with_a_fixed_batch_names_the_batch_that_it_takes() -> None:
    assert messages([FIXED], batch=2) == [
        'load.batch: found 2; x FP32 [4, 8] fixes the batch: set load.batch = 4, or "none" where that size is no batch'
    ]
    assert shape(FIXED, batch=4) == (4, 8)


def test_inputs_whose_fixed_first_sizes_differ_have_no_batch() -> None:
    both = [Input("a", "FP32", (2, 3)), Input("b", "FP32", (5,))]
    assert messages(both, batch=1) == []
    assert messages(both, batch=4)[0].startswith("load.batch: found 4")
    assert messages([IMAGE, Input("scale", "FP32", (2,))], batch=4, shapes={"x": [1, 3, 8, 8]}) == []


def test_an_array_has_one_request_or_an_axis_more_or_rows_that_the_batch_divides() -> None:
    assert shape(IMAGE, array=(1, 3, 8, 9)) == (1, 3, 8, 9)
    assert shape(IMAGE, array=(5, 1, 3, 8, 9)) == (1, 3, 8, 9)
    assert shape(IMAGE, array=(6, 3, 8, 9), batch=2) == (2, 3, 8, 9)
    assert shape(Input("x", "FP32", ()), array=(5,)) == ()


def test_an_array_that_does_not_fit_is_a_mistake() -> None:
    assert "5 rows, which load.batch = 2 does not divide" in messages([IMAGE], {"x": (5, 3, 8, 9)}, batch=2)[0]
    assert "has shape [1, 4, 8, 9]" in messages([IMAGE], {"x": (1, 4, 8, 9)})[0]
    assert "has shape [0, 3, 8, 9]" in messages([IMAGE], {"x": (0, 3, 8, 9)})[0]
    assert "has shape [1, 3, 8, 9]" in messages([IMAGE], {"x": (1, 3, 8, 9)}, shapes={"x": [1, 3, 8, 8]})[0]


def test_all_mistakes_are_reported_at_once() -> None:
    found = messages([IMAGE, Input("ids", "INT64", (-1, -1))], shapes={"y": [1], "x": [1, 3]})
    assert len(found) == 3
    assert '"y" is no input of the model; it has x FP32 [-1, 3, -1, -1], ids INT64 [-1, -1]' in found[0]


GRAPH = [Input("nodes", "FP32", (-1, 4)), Input("edges", "INT64", (2, -1)), Input("w", "FP32", (-1,))]


def test_without_a_batch_arrays_and_shapes_are_taken_as_they_are() -> None:
    arrays = {"nodes": (6, 4), "edges": (2, 10), "w": (10,)}
    assert resolve(GRAPH, Load(batch="none"), arrays) == (arrays, [])
    wanted = Load(batch="none", shapes={"nodes": [6, 4], "edges": [2, 10], "w": [10]})
    assert resolve(GRAPH, wanted, {}) == (arrays, [])
    assert shape(Input("x", "FP32", (3, 8, 8)), batch="none") == (3, 8, 8)
    assert shape(Input("x", "FP32", (-1, 1, 40)), array=(77, 1, 40), batch="none") == (77, 1, 40)  # time first
    assert shape(Input("x", "FP32", (-1, 4)), array=(5, 6, 4), batch="none") == (6, 4)  # five requests
    assert messages(GRAPH, batch="none")[0] == (
        "load.shapes: nodes FP32 [-1, 4] leaves sizes open: say them, as in shapes = {nodes = [16, 4]}"
    )


def test_arrays_that_give_different_numbers_of_requests_are_refused_and_not_cut() -> None:
    assert messages(GRAPH, {"nodes": (6, 4), "edges": (2, 10), "w": (10,)}) == [
        "load.batch: the arrays give different numbers of requests: nodes [6, 4] 6, edges [2, 10] 1, w [10] 10; set "
        'load.batch = "none" to send the arrays as they are, or give each as many rows'
    ]
    rows = [Input("a", "FP32", (-1, 4)), Input("b", "FP32", (-1, 2))]
    assert messages(rows, {"a": (6, 4), "b": (6, 2)}, batch=2) == []
    assert messages(rows, {"a": (6, 4), "b": (4, 2)}, batch=2)[0].endswith("give each as many rows")
