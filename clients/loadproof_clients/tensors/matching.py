"""Decides whether an answer is right: its tensors against those of the reference answer."""

from __future__ import annotations

import numpy as np

from loadproof_clients.tensors.tensor import FLOATS, Tensor, Tensors, fills, to_array


def agree(expected: Tensors, got: Tensors, *, rtol: float, atol: float) -> bool:
    """True where both have the same outputs (in any order), each of the same datatype, shape and values.

    Bytes are compared first; floats that differ may lie within `atol + rtol * |expected|` of the expected value
    (numpy.isclose), a NaN equals a NaN at the same place. Integers, BOOL and BYTES must be equal. With rtol = atol = 0
    the bytes alone decide.
    """
    if len(expected) != len(got):
        return False
    if all(a == b for a, b in zip(expected, got, strict=True)):
        return True
    by_name = {tensor.name: tensor for tensor in got}
    return all(
        tensor.name in by_name and _tensors_agree(tensor, by_name[tensor.name], rtol, atol) for tensor in expected
    )


def _tensors_agree(expected: Tensor, got: Tensor, rtol: float, atol: float) -> bool:
    if expected.datatype != got.datatype or expected.shape != got.shape or len(expected.raw) != len(got.raw):
        return False
    if expected.raw == got.raw:
        return True
    if expected.datatype not in FLOATS or (rtol == 0 and atol == 0) or not fills(expected):
        return False
    a, b = (to_array(tensor).astype(np.float64) for tensor in (expected, got))
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True).all())
