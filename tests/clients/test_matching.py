from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from loadproof_clients.tensors.matching import agree
from loadproof_clients.tensors.tensor import Tensor, pack

BF16_ONE, BF16_NEXT, BF16_NAN = 0x3F80, 0x3F81, 0x7FC0


def tensor(values: npt.ArrayLike, dtype: str = "<f4", datatype: str = "FP32", name: str = "y") -> Tensor:
    array = np.asarray(values, dtype)
    return Tensor(name, datatype, array.shape, array.tobytes())


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        ([1.0, 100.0], [1.0015, 100.05], True),
        ([1.0, 100.0], [1.0025, 100.0], False),
        ([100.0], [100.2], False),
        ([np.nan, 1.0], [np.nan, 1.0005], True),
        ([np.nan, 1.0], [1.0, np.nan], False),
        ([1.0], [np.nan], False),
        ([np.inf, -np.inf, 1.0], [np.inf, -np.inf, 1.0005], True),
        ([np.inf], [-np.inf], False),
        ([np.inf], [3e38], False),
        ([0.0, 1.0], [-0.0, 1.0], True),
    ],
)
def test_floats_agree_within_the_tolerance_of_isclose(expected: list[float], got: list[float], equal: bool) -> None:
    for dtype, datatype in (("<f4", "FP32"), ("<f8", "FP64")):
        a, b = tensor(expected, dtype, datatype), tensor(got, dtype, datatype)
        assert agree([a], [b], rtol=1e-3, atol=1e-3) is equal


def test_half_floats_do_not_overflow_while_they_are_compared() -> None:
    a, b = tensor([60000.0, 1.0], "<f2", "FP16"), tensor([-60000.0, 1.0], "<f2", "FP16")
    assert not agree([a], [b], rtol=1e-3, atol=1e-3)
    assert agree([a], [tensor([60000.0, 1.001], "<f2", "FP16")], rtol=1e-3, atol=1e-3)


def test_bf16_is_compared_by_value_and_a_nan_equals_a_nan() -> None:
    def bf16(*bits: int) -> list[Tensor]:
        return [tensor(bits, "<u2", "BF16")]

    assert agree(bf16(BF16_ONE, BF16_NAN), bf16(BF16_NEXT, BF16_NAN), rtol=1e-2, atol=0)
    assert not agree(bf16(BF16_ONE), bf16(BF16_NEXT), rtol=1e-3, atol=1e-3)


def test_without_tolerance_bytes_decide() -> None:
    assert agree([tensor([0.0, np.nan])], [tensor([0.0, np.nan])], rtol=0, atol=0)
    assert not agree([tensor([0.0])], [tensor([-0.0])], rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "datatype"), [("?", "BOOL"), ("<i4", "INT32"), ("<u8", "UINT64"), ("|S1", "BYTES")])
def test_whatever_is_no_float_has_to_be_equal(dtype: str, datatype: str) -> None:
    a, same, other = (tensor(values, dtype, datatype) for values in ([0, 1], [0, 1], [1, 1]))
    assert agree([a], [same], rtol=1, atol=1)
    assert not agree([a], [other], rtol=1, atol=1)


def test_outputs_may_come_in_any_order_but_all_must_come_as_expected() -> None:
    y, z = tensor([1.0], name="y"), tensor([2.0], name="z")
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    assert agree([y, z], [z, y], **tolerance)
    assert not agree([y, z], [y], **tolerance)
    assert not agree([y], [y, z], **tolerance)
    assert not agree([y, z], [y, y], **tolerance)
    assert not agree([y], [y._replace(datatype="INT32")], **tolerance)
    assert not agree([y], [y._replace(shape=(1, 1))], **tolerance)
    assert not agree([y], [y._replace(raw=y.raw[:-1])], **tolerance)
    assert not agree([y], [y._replace(raw=b"")], **tolerance)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT64", [1.5]),
        ("INT64", [float("nan")]),
        ("INT8", [128]),
        ("UINT8", [-1]),
        ("INT32", [True]),
        ("BOOL", [2]),
        ("FP32", [None]),
        ("FP32", ["1"]),
        ("FP32", [10**400]),
        ("BYTES", [10**10]),
        ("BYTES", [None]),
        ("BYTES", [{"a": 1}]),
    ],
)
def test_no_value_is_rounded_cut_or_taken_for_another_kind(datatype: str, values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        pack(datatype, values)


def test_a_reference_that_does_not_fill_its_shape_agrees_with_its_own_bytes_alone() -> None:
    """One that came from the server itself, as answers do."""
    short = Tensor("y", "FP32", (2,), b"12345")
    assert agree([short], [short], rtol=1, atol=1)
    assert not agree([short], [short._replace(raw=b"12346")], rtol=1, atol=1)


def test_typed_values_become_the_raw_bytes_of_their_datatype() -> None:
    assert pack("FP32", [[1, 2], [3, 4]]) == np.array([1, 2, 3, 4], "<f4").tobytes()
    assert pack("BOOL", [True, False]) == b"\x01\x00"
    assert pack("UINT64", [1, 2**63]) == np.array([1, 2**63], "<u8").tobytes()  # numpy's own choice would be floats
    assert pack("FP64", [2**70]) == np.array([2.0**70]).tobytes()
    assert pack("BYTES", ["ab", b"c"]) == b"\x02\0\0\0ab\x01\0\0\0c"
    for datatype, values in (("BF16", [1.0]), ("FP32", ["one"]), ("UINT8", [300])):
        with pytest.raises(ValueError, match=r"BF16|FP32|uint8"):
            pack(datatype, values)
