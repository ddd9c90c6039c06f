"""Reads what a model takes and gives from OpenVINO's ports: KServe datatypes, shapes and layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openvino as ov

from loadproof_server.engine.specs import ANY, Dimension, TensorSpec, guess_layout
from loadproof_server.errors import StartError
from loadproof_server.tensors.datatypes import BY_OPENVINO


def specs(ports: Sequence[Any], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Of all inputs or outputs; raises StartError for a type that KServe does not know."""
    return tuple(_spec(port, name) for port, name in zip(ports, names, strict=True))


def layout_of(port: Any) -> str:
    """The letters of the port's layout where the model says it, else what its shape lets guess; may be empty."""
    layout: str = ov.layout_helpers.get_layout(port).to_string()[1:-1]
    if layout != "..." and "..." not in layout:
        return layout.replace(",", "")
    return guess_layout(_limits(port)) if layout == "..." and port.get_partial_shape().rank.is_static else ""


def _limits(port: Any) -> tuple[Dimension, ...]:
    return tuple((dimension.get_min_length(), dimension.get_max_length()) for dimension in port.get_partial_shape())


def _spec(port: Any, name: str) -> TensorSpec:
    element_type = port.get_element_type().get_type_name()
    if element_type not in BY_OPENVINO:
        raise StartError(f"tensor {name} has the type {element_type}, which KServe does not know")
    datatype = BY_OPENVINO[element_type].name
    if port.get_partial_shape().rank.is_dynamic:
        return TensorSpec(name, datatype, (ANY,), (), any_rank=True)
    limits = _limits(port)
    shape = tuple(low if low == high else ANY for low, high in limits)
    return TensorSpec(name, datatype, shape, limits, layout=layout_of(port))
