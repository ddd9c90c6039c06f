from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loadproof_server.errors import InvalidRequest
from loadproof_server.tensors import codec, datatypes

NUMERIC = [name for name in datatypes.DATATYPES if name != "BYTES"]
WITH_JSON = [name for name in NUMERIC if not datatypes.raw_only(name)]


@pytest.mark.parametrize("datatype", NUMERIC)
def test_raw_numbers_come_back_as_they_went_in(datatype: str) -> None:
    raw = bytes([1, 0, 1, 0, 1, 0, 1, 0] * 6)[: 6 * datatypes.DATATYPES[datatype].dtype.itemsize]
    array = codec.from_raw("x", datatype, [2, 3], raw)
    assert array.shape == (2, 3)
    assert codec.to_raw(array) == raw


def test_an_aligned_raw_tensor_is_not_copied() -> None:
    raw = bytes(64)
    array = codec.from_raw("x", "FP32", [16], raw)
    assert np.shares_memory(array, np.frombuffer(raw, np.uint8))


def test_a_misaligned_raw_tensor_is_copied_and_right() -> None:
    values = np.arange(4, dtype=np.float64)
    array = codec.from_raw("x", "FP64", [4], memoryview(b"abc" + values.tobytes())[3:])
    assert array.flags.aligned
    assert array.tolist() == values.tolist()


@pytest.mark.parametrize("elements", [[], [b""], [b"a", b"", b"\xff\x00\xfe", b"x" * 300]])
def test_bytes_travel_with_their_lengths(elements: list[bytes]) -> None:
    array = codec.from_values("x", "BYTES", [len(elements)], elements)
    raw = codec.to_raw(array)
    assert len(raw) == sum(4 + len(element) for element in elements)
    assert codec.from_raw("x", "BYTES", [len(elements)], raw).tolist() == elements


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x01\0\0", "x: 3 bytes at the end where a 4-byte length was expected"),
        (b"\x05\0\0\0ab", "x: an element of 5 bytes runs past the end of the data"),
        (b"\xff\xff\xff\xff", "x: an element of 4294967295 bytes runs past the end of the data"),
        (b"\0\0\0\0\0\0\0\0", "x: 2 BYTES elements for shape [1]"),
    ],
)
def test_broken_raw_bytes_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        codec.from_raw("x", "BYTES", [1], raw)
    assert str(caught.value) == message


def test_a_wrong_number_of_bytes_is_reported_with_the_right_one() -> None:
    with pytest.raises(InvalidRequest, match=r"x: 8 bytes for FP32 of shape \[3\], which takes 12"):
        codec.from_raw("x", "FP32", [3], bytes(8))


def test_a_bool_byte_that_is_neither_0_nor_1_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="x: a BOOL byte must be 0 or 1"):
        codec.from_raw("x", "BOOL", [2], b"\x01\x02")


@pytest.mark.parametrize("datatype", WITH_JSON)
def test_json_lists_flat_and_nested_give_the_same_tensor(datatype: str) -> None:
    dtype = datatypes.DATATYPES[datatype].dtype
    expected = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    for data in (expected.tolist(), expected.ravel().tolist()):
        array = codec.from_json("x", datatype, [2, 3], data)
        assert array.dtype == dtype
        assert array.tolist() == expected.tolist()
    assert codec.to_json("x", datatype, expected.tobytes()) == expected.ravel().tolist()


def test_the_largest_integers_keep_every_bit_in_json() -> None:
    assert codec.from_json("x", "UINT64", [2], [2**64 - 1, 1]).tolist() == [2**64 - 1, 1]
    assert codec.from_json("x", "INT64", [2], [-(2**63), 2**63 - 1]).tolist() == [-(2**63), 2**63 - 1]


def test_json_strings_are_utf8_bytes() -> None:
    array = codec.from_json("x", "BYTES", [2], ["é", ""])
    assert array.tolist() == ["é".encode(), b""]
    assert codec.to_json("x", "BYTES", codec.to_raw(array)) == ["é", ""]
    with pytest.raises(InvalidRequest, match="not UTF-8; ask for it with binary_data"):
        codec.to_json("x", "BYTES", b"\x01\0\0\0\xff")


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        ("FP32", "1", "data must be a list"),
        ("FP32", [1.0, "2"], "data for FP32 holds strings"),
        ("FP32", [1.0, None], "data for FP32 holds null"),
        ("FP32", [True, False], "data for FP32 holds booleans"),
        ("FP32", [[1.0], [2.0, 3.0]], "holds lists of unequal lengths"),
        ("FP32", [1e300, 0], "outside the range of FP32"),
        ("INT8", [1, 128], "outside the range of INT8"),
        ("UINT8", [-1, 0], "outside the range of UINT8"),
        ("INT64", [1, 2**63], "outside the range of INT64"),
        ("INT32", [1.5, 2], "data for INT32 holds decimals"),
        ("INT32", [{}, 2], "data for INT32 holds objects"),
        ("BOOL", [0, 1], "data for BOOL holds integers"),
        ("BYTES", ["a", 1], "data for BYTES holds integers"),
        ("BYTES", ["\ud800"], "an element has half a surrogate pair"),
        ("FP16", [1.0, 2.0], "FP16 has no JSON form; send it binary"),
        ("FP32", [1.0, 2.0, 3.0], r"data of shape \[3\] does not fit shape \[2\]"),
        ("FP32", [[1.0, 2.0]], r"data of shape \[1, 2\] does not fit shape \[2\]"),
    ],
)
def test_json_that_is_no_such_tensor_is_refused(datatype: str, data: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^x: .*{message}"):
        codec.from_json("x", datatype, [2], data)


@pytest.mark.parametrize(
    ("datatype", "values", "message"),
    [
        ("INT8", [1, 200], "x: a value is outside the range of INT8"),
        ("FP32", [1.0], r"x: 1 values for FP32 of shape \[2\]"),
        ("BF16", [1, 2], "x: BF16 has no typed contents; send it raw"),
    ],
)
def test_typed_values_that_are_no_such_tensor_are_refused(datatype: str, values: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        codec.from_values("x", datatype, [2], values)


@pytest.mark.parametrize("shape", [[0, 2**62], [0, 2**70], [1] * 65, [2**63, 0]])
def test_a_shape_that_no_tensor_can_have_is_refused(shape: list[int]) -> None:
    values = [1] if 0 not in shape else []
    refusal = r"^x: shape has more or larger dimensions than a tensor can have"
    with pytest.raises(InvalidRequest, match=refusal):
        codec.from_raw("x", "FP64", shape, np.array(values, "<f8").tobytes())
    for read in (codec.from_values, codec.from_json):
        with pytest.raises(InvalidRequest, match=refusal):
            read("x", "FP64", shape, values)
