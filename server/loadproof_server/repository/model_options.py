"""Reads the options that say how a model is prepared: shape, layout, mean, scale, colours and precision.

A value is for the model's only input, or a JSON object has one for each tensor by its name. Sources: OVMS's
`docs/parameters.md`, `docs/shape_batch_size_and_layout.md`, `src/color_format_configuration.cpp` and
`src/precision_configuration.cpp`. Two things differ: `auto` makes dimensions dynamic, where OVMS loads the
model anew for each shape that comes. And one of `--precision A:B` must be the model's own, so their order does not
matter: the other one is what clients send.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from loadproof_server.engine.preparation import ONLY
from loadproof_server.engine.specs import ANY, Dimension
from loadproof_server.tensors.datatypes import BYTES, DATATYPES

_EVERY_SIZE: Final = (0, ANY)
_DIMENSION: Final = re.compile(r"([0-9]+)(?::([0-9]+))?")
_SIZE_MAX: Final = 999_999_999
_COLORS: Final = ("RGB", "BGR")


def _by_tensor(read_one: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    def read_all(value: Any) -> dict[str, Any]:
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError("broken JSON; give an object of tensors' names, or one value") from None
        if not isinstance(value, dict):
            return {ONLY: read_one(value)}
        if ONLY in value:
            raise ValueError("a tensor's name is empty")
        found = {}
        for name, one in value.items():
            try:
                found[name] = read_one(one)
            except ValueError as error:
                raise ValueError(f"{name[:100]}: {error}") from None
        return found

    return read_all


def _shape(value: Any) -> tuple[Dimension, ...] | None:
    if value == "auto":
        return None
    if isinstance(value, str):
        text = value.strip()
        if not (text.startswith("(") and text.endswith(")")):
            raise ValueError('must be "auto" or as (1,3,224,224), where -1 is any size and 1:8 a range')
        value = [part for part in text[1:-1].split(",") if part.strip()]
    if not isinstance(value, list) or not value:
        raise ValueError('must be "auto" or a list of sizes')
    return tuple(_dimension(size) for size in value)


def _dimension(value: Any) -> Dimension:
    text = str(value).strip() if type(value) in (str, int) else ""
    if text == "-1":
        return _EVERY_SIZE
    if not (found := _DIMENSION.fullmatch(text)):
        raise ValueError(f"{value!r:.40} is no size: give a whole number, -1 for any or 1:8 for a range")
    if max(len(digits) for digits in found.groups("")) > len(str(_SIZE_MAX)):
        raise ValueError(f"{text:.40} is out of bounds: a size is at most {_SIZE_MAX}")
    low, high = int(found[1]), int(found[2] or found[1])
    if low > high:
        raise ValueError(f"{text} begins above its end")
    return low, high


def _batch_size(value: Any) -> Dimension:
    batch = _EVERY_SIZE if value == "auto" else _dimension(value)
    if batch[1] == 0:
        raise ValueError("must be at least 1")
    return batch


def _layout(value: Any) -> tuple[str, str]:
    """`NHWC:NCHW`: clients send NHWC to a model of NCHW. One alone only names the model's dimensions."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z?.]{1,16}(:[A-Z?.]{1,16})?", value):
        raise ValueError("must be as NHWC:NCHW (the clients' and the model's) or NCHW")
    client, _, model = value.partition(":")
    return client, model or client


def _numbers(value: Any) -> tuple[float, ...]:
    """As 127.5 or [123.675,116.28,103.53], from text or JSON; brackets may be left out or round."""
    parts = re.sub(r"^[\[(](.*)[\])]$", r"\1", value.strip()).split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list) else [parts]
    try:
        numbers = tuple(float(part) for part in parts if not isinstance(part, bool))
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if not numbers or len(numbers) != len(parts) or not all(map(math.isfinite, numbers)):
        raise ValueError("must be a number or a list of them, as [123.675,116.28,103.53]")
    return numbers


def _scale(value: Any) -> tuple[float, ...]:
    numbers = _numbers(value)
    if 0 in numbers:
        raise ValueError("must not be 0: values are divided by it")
    return numbers


def _color_format(value: Any) -> tuple[str, str]:
    pair = tuple(str(value).upper().split(":"))
    if len(pair) != 2 or not set(pair) <= set(_COLORS):
        raise ValueError("must be BGR:RGB or RGB:BGR")
    return pair


def _precision(value: Any) -> tuple[str, str]:
    pair = tuple(str(value).upper().split(":"))
    known = [name for name in DATATYPES if name not in (BYTES, "BOOL")]
    if len(pair) != 2 or not set(pair) <= set(known):
        raise ValueError(f"must be as UINT8:FP32, one of them the model's own; known are {', '.join(known)}")
    return pair


# By the name of the flag or key: what reads its value, text or JSON; raises ValueError.
READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "shape": _by_tensor(_shape),
    "batch_size": _batch_size,
    "layout": _by_tensor(_layout),
    "mean": _by_tensor(_numbers),
    "scale": _by_tensor(_scale),
    "color_format": _by_tensor(_color_format),
    "precision": _by_tensor(_precision),
}
