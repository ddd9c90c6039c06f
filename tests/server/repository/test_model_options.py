from __future__ import annotations

from typing import Any

import pytest

from loadproof_server.engine.specs import guess_layout
from loadproof_server.repository.model_options import READERS


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("shape", "auto", {"": None}),
        ("shape", "(1,3,224,224)", {"": ((1, 1), (3, 3), (224, 224), (224, 224))}),
        ("shape", " ( -1, 3, 2:8 ) ", {"": ((0, -1), (3, 3), (2, 8))}),
        ("shape", [1, "2:8", -1], {"": ((1, 1), (2, 8), (0, -1))}),
        ("shape", '{"a": "(1,2)", "b": "auto"}', {"a": ((1, 1), (2, 2)), "b": None}),
        ("batch_size", "4", (4, 4)),
        ("batch_size", 4, (4, 4)),
        ("batch_size", "1:8", (1, 8)),
        ("batch_size", "auto", (0, -1)),
        ("layout", "NHWC:NCHW", {"": ("NHWC", "NCHW")}),
        ("layout", "N?HW", {"": ("N?HW", "N?HW")}),
        ("layout", {"x": "NHWC:NCHW", "y": "CN:NC"}, {"x": ("NHWC", "NCHW"), "y": ("CN", "NC")}),
        ("mean", "127.5", {"": (127.5,)}),
        ("mean", "[123.675,116.28,103.53]", {"": (123.675, 116.28, 103.53)}),
        ("mean", "1,2,3", {"": (1, 2, 3)}),
        ("scale", [58.395, 57], {"": (58.395, 57)}),
        ("color_format", "rgb:bgr", {"": ("RGB", "BGR")}),
        ("precision", "fp32:uint8", {"": ("FP32", "UINT8")}),
    ],
)
def test_values_are_read_from_text_and_from_json(key: str, value: Any, expected: Any) -> None:
    assert READERS[key](value) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("shape", value) for value in ("1,2", "()", "(1,-2)", "(1,2:)", "(1, 1:1:1)", [], [1.5], [True], 4, [[1]])),
        ("shape", {"": "(1)"}),
        ("shape", "(9999999999)"),
        *(("batch_size", value) for value in ("0", "x", -2, None, 1.5)),
        *(("layout", value) for value in ("", "NHWC:", ":NHWC", "NHWC:NCHW:N", "N HWC", "N" * 17)),
        *(("mean", value) for value in ("", "[]", "a", "[1,]", "inf", [True], {"x": None}, None)),
        ("scale", "0"),
        *(("color_format", value) for value in ("RGB", "RGB:GRAY", "RGB:BGR:RGB", 1)),
        *(("precision", value) for value in ("UINT8", "UINT8:INT4", "BYTES:FP32", "BOOL:FP32", None)),
        ("mean", "{" * 100_000),
    ],
)
def test_what_is_no_such_value_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        READERS[key](value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("sizes", "layout"),
    [
        ([1, 3, 224, 224], "NCHW"),
        ([1, 224, 224, 1], "NHWC"),
        ([1, 3, 224, 3], ""),
        ([1, 5, 224, 224], ""),
        ([3, 224, 224], ""),
    ],
)
def test_a_layout_is_guessed_where_only_one_dimension_can_be_the_channels(sizes: list[int], layout: str) -> None:
    assert guess_layout(tuple((size, size) for size in sizes)) == layout
