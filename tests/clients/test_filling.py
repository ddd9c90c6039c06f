"""Values of tensors: every datatype, its range, and pixels."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import triton_to_np_dtype

from loadproof_clients.payloads.filling import (
    dtype_of,
    image_layout,
    item_bytes,
    pixel_tensor,
    random_tensor,
    range_mistakes,
)
from loadproof_clients.payloads.shapes import Input, PayloadError

FLOATS = ("FP16", "BF16", "FP32", "FP64")
SIGNED = ("INT8", "INT16", "INT32", "INT64")
UNSIGNED = ("UINT8", "UINT16", "UINT32", "UINT64")
LARGE = (2000,)


def of(datatype: str) -> Input:
    return Input("x", datatype, (-1,))


def draw(datatype: str, limits: tuple[float, float] | None = None) -> np.ndarray:
    return random_tensor(of(datatype), LARGE, limits, np.random.default_rng(3))


@pytest.mark.parametrize("datatype", [*FLOATS, *SIGNED, *UNSIGNED, "BOOL", "BYTES"])
def test_every_datatype_is_filled_with_varied_values_of_its_own_type_the_same_for_a_seed(datatype: str) -> None:
    values = draw(datatype)
    assert values.dtype == triton_to_np_dtype(datatype)
    assert values.shape == LARGE
    assert len(set(values.tolist())) > (1 if datatype == "BOOL" else 100)
    assert np.array_equal(values, draw(datatype))
    assert not np.array_equal(values, random_tensor(of(datatype), LARGE, None, np.random.default_rng(4)))


@pytest.mark.parametrize("datatype", FLOATS)
def test_floats_fill_their_range_and_stay_in_it(datatype: str) -> None:
    for limits in (None, (-2.0, 6.0)):
        low, high = limits or (0.0, 1.0)
        values = draw(datatype, limits).astype(np.float64)
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high


@pytest.mark.parametrize("datatype", [*SIGNED, *UNSIGNED])
def test_integers_take_every_value_of_a_range_both_ends_included(datatype: str) -> None:
    assert set(draw(datatype, (3, 9)).tolist()) == {3, 4, 5, 6, 7, 8, 9}
    whole = {"INT8": (-128, 127), "UINT8": (0, 255)}.get(datatype, (0, 127))
    assert (draw(datatype).min(), draw(datatype).max()) == whole


@pytest.mark.parametrize(
    ("datatype", "limits", "allowed"),
    [
        ("UINT8", (0, 300), "whole numbers from 0 to 255"),
        ("INT32", (0.5, 3), "whole numbers from -2147483648 to 2147483647"),
        ("FP16", (0, 1e6), "numbers from -65504.0 to 65504.0"),
        ("FP32", (0, float("inf")), "numbers from -3.4"),
        ("FP32", (float("nan"), 1), "numbers from -3.4"),
        ("INT64", (0, float("inf")), "whole numbers from -9223372036854775808"),
        ("BOOL", (0, 1), "takes no range"),
        ("BYTES", (0, 1), "takes no range"),
    ],
)
def test_a_range_that_the_datatype_cannot_hold_is_a_mistake(
    datatype: str, limits: tuple[float, float], allowed: str
) -> None:
    (mistake,) = range_mistakes([of(datatype)], {"x": limits})
    assert mistake.key == "load.ranges"
    assert allowed in mistake.message


def test_sound_ranges_are_no_mistake_and_an_unknown_name_is() -> None:
    assert range_mistakes([of("BF16")], {"x": (-1e38, 1e38)}) == []
    assert range_mistakes([of("INT64")], {}) == []
    assert '"y" is no input' in range_mistakes([of("INT64")], {"y": (0, 1)})[0].message


def test_an_unknown_datatype_is_named() -> None:
    with pytest.raises(PayloadError, match="there is no datatype FP8"):
        dtype_of(of("FP8"))


def test_bytes_on_the_wire_are_known_beforehand() -> None:
    assert [item_bytes(of(name)) for name in ("BOOL", "BF16", "UINT64", "BYTES")] == [1, 2, 8, 20]


def test_layouts_of_pictures_are_recognised_by_their_channels() -> None:
    def layout(*shape: int, datatype: str = "FP32") -> tuple[int, int, int, bool] | None:
        return image_layout(of(datatype), shape)

    assert layout(1, 3, 48, 192) == (48, 192, 3, True)
    assert layout(1, 1, 28, 30) == (28, 30, 1, True)
    assert layout(1, 48, 192, 3, datatype="UINT8") == (48, 192, 3, False)
    assert layout(1, 28, 30, 1) == (28, 30, 1, False)
    assert layout(1, 64, 48, 192) is None
    assert layout(1, 3) is None
    assert layout(1, 3, 4, 4, datatype="BYTES") is None


@pytest.mark.parametrize(
    ("datatype", "limits", "expected"),
    [
        ("FP32", None, [0, 128 / 255, 1]),
        ("FP32", (-1, 1), [-1, 256 / 255 - 1, 1]),
        ("FP64", (0, 255), [0, 128, 255]),
        ("UINT8", None, [0, 128, 255]),
        ("INT8", None, [-128, 0, 127]),
        ("INT32", None, [0, 128, 255]),
        ("INT32", (0, 10), [0, 5, 10]),
    ],
)
def test_pixels_are_mapped_linearly_to_the_range(
    datatype: str, limits: tuple[float, float] | None, expected: list[float]
) -> None:
    pixels = np.array([0, 128, 255], np.uint8).reshape(1, 1, 3, 1)
    layout = image_layout(of(datatype), (1, 1, 1, 3))
    assert layout is not None
    values = pixel_tensor(of(datatype), pixels, limits, layout)
    assert values.dtype == dtype_of(of(datatype))
    assert values.reshape(-1).tolist() == pytest.approx(expected, abs=1e-6)


def test_channels_go_where_the_layout_says() -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    for shape, order in (((2, 3, 4, 5), (0, 3, 1, 2)), ((2, 4, 5, 3), (0, 1, 2, 3))):
        layout = image_layout(of("UINT8"), shape)
        assert layout is not None
        tensor = pixel_tensor(of("UINT8"), pixels, None, layout)
        assert tensor.flags.c_contiguous
        assert np.array_equal(tensor, pixels.transpose(order))
