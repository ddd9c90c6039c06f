"""What the payloads of a run hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loadproof_clients.payloads.making import make
from loadproof_clients.payloads.shapes import Input, PayloadError
from loadproof_clients.spec import Load
from loadproof_clients.tensors.tensor import to_array

X = Input("x", "FP32", (-1, 3, -1, -1))
SMALL = {"x": [1, 3, 8, 24]}
EVERY = [
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "BF16",
    "FP32",
    "FP64",
]


def made(inputs: list[Input], **load: Any) -> list[Any]:
    return list(make(inputs, Load(**load)))


def tensor(payload: Any, index: int = 0) -> Any:
    return to_array(payload[index])


@pytest.mark.parametrize("datatype", EVERY)
def test_each_datatype_s_payload_has_as_many_bytes_as_its_shape(datatype: str) -> None:
    ((x,),) = made([Input("x", datatype, (-1, 5))], batch=3, payloads=1)
    assert x[:3] == ("x", datatype, (3, 5))
    assert to_array(x).size == 15


def test_strings_carry_their_lengths() -> None:
    (payload,) = made([Input("x", "BYTES", (-1, 2))], payloads=1)
    assert [len(text) for text in tensor(payload).reshape(-1)] == [16, 16]


def test_payloads_are_distinct_and_the_same_for_a_seed() -> None:
    first = made([X], shapes=SMALL, payloads=8)
    assert len({payload[0].raw for payload in first}) == 8
    assert first == made([X], shapes=SMALL, payloads=8)
    assert first[:3] == made([X], shapes=SMALL, payloads=3)
    assert first != made([X], shapes=SMALL, payloads=8, seed=2)


def test_what_comes_twice_is_left_out() -> None:
    assert len(made([Input("x", "BOOL", (-1,))], payloads=32)) == 2


def test_each_input_has_values_of_its_own_within_its_range() -> None:
    (payload,) = made([Input("a", "FP32", (-1, 50)), Input("b", "FP32", (-1, 50))], payloads=1, ranges={"b": (5, 6)})
    assert 0 <= tensor(payload, 0).min() <= tensor(payload, 0).max() <= 1
    assert 5 <= tensor(payload, 1).min() <= tensor(payload, 1).max() <= 6
    assert not np.allclose(tensor(payload, 0) + 5, tensor(payload, 1))


def test_rendered_text_fills_the_input_s_range_in_both_layouts() -> None:
    channels_last = Input("x", "UINT8", (-1, -1, -1, 3))
    (floats,) = made([X], payload="images", payloads=1, shapes={"x": [1, 3, 48, 192]}, ranges={"x": (-1, 1)})
    (bytes_,) = made([channels_last], payload="images", payloads=1, shapes={"x": [1, 48, 192, 3]})
    assert tensor(floats).min() < -0.2
    assert tensor(floats).max() > 0.4
    assert np.allclose(tensor(floats).transpose(0, 2, 3, 1), tensor(bytes_) / 127.5 - 1, atol=1e-6)


def test_a_batch_holds_different_pictures_and_other_inputs_stay_random() -> None:
    inputs = [X, Input("ids", "INT64", (-1, 4))]
    payloads = made(inputs, payload="images", payloads=3, batch=2, shapes={"x": [1, 3, 48, 96]})
    rows = [row.tobytes() for payload in payloads for row in tensor(payload)]
    assert len(set(rows)) == 6
    assert len({tensor(payload, 1).tobytes() for payload in payloads}) == 3


def test_a_folder_with_fewer_pictures_than_payloads_gives_what_it_has(tmp_path: Path) -> None:
    for level in (10, 20, 30):
        Image.new("L", (9, 9), level).save(tmp_path / f"{level}.png")
    payloads = made([X], payload=f"images:{tmp_path}", batch=2, shapes=SMALL, ranges={"x": (0, 255)})
    assert [tensor(payload)[:, 0, 0, 0].tolist() for payload in payloads] == [[10, 20], [30, 10]]


def test_arrays_are_sent_as_they_are(tmp_path: Path) -> None:
    array = np.arange(4 * 6, dtype=np.float32).reshape(4, 6)
    np.save(tmp_path / "a.npy", array)
    rows = Input("x", "FP32", (-1, 6))
    one_each = made([rows], payload=f"npy:{tmp_path / 'a.npy'}")
    assert [tensor(payload).tolist() for payload in one_each] == [[row] for row in array.tolist()]
    pairs = made([rows], payload=f"npy:{tmp_path / 'a.npy'}", batch=2)
    assert np.array_equal(np.concatenate([tensor(payload) for payload in pairs]), array)
    assert [tensor(payload).shape for payload in pairs] == [(2, 6), (2, 6)]
    first_only = made([rows], payload=f"npy:{tmp_path / 'a.npy'}", payloads=1)
    assert len(first_only) == 1


def test_named_arrays_and_strings_are_sent(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", n=np.array([[1], [2]]), t=np.array([["one"], ["two"]]))
    inputs = [Input("n", "INT8", (-1, 1)), Input("t", "BYTES", (-1, 1))]
    payloads = made(inputs, payload=f"npy:{tmp_path / 'a.npz'}")
    assert [(int(tensor(m)[0, 0]), tensor(m, 1)[0, 0]) for m in payloads] == [(1, b"one"), (2, b"two")]


def test_all_mistakes_are_found_before_anything_is_made() -> None:
    with pytest.raises(PayloadError) as error:
        make([X], Load(shapes={"y": [1]}, ranges={"z": (0, 1)}))
    assert [mistake.key for mistake in error.value.mistakes] == ["load.shapes", "load.shapes", "load.ranges"]


def test_a_model_that_takes_no_pictures_says_so() -> None:
    with pytest.raises(PayloadError, match=r"no input takes pictures: x FP32 \[-1, 6\]"):
        make([Input("x", "FP32", (-1, 6))], Load(payload="images"))
    with pytest.raises(PayloadError, match="is not a folder"):
        make([X], Load(payload="images:/no/such/folder", shapes=SMALL))


def test_too_many_bytes_are_refused_with_the_number_that_fits() -> None:
    with pytest.raises(PayloadError, match=r"load\.payloads = 16 or less"):
        make([X], Load(shapes={"x": [1, 3, 2048, 2730]}))
    with pytest.raises(PayloadError, match=r"a smaller load\.batch"):
        make([X], Load(shapes={"x": [1, 3, 20480, 27300]}))
