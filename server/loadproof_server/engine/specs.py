"""What a compiled model takes and gives: names, KServe datatypes and shapes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import openvino as ov

from loadproof_server.errors import StartError
from loadproof_server.preparation import ANY, Dimension, guess_layout
from loadproof_server.tensors import BYTES

# OpenVINO's type names to KServe's datatypes: every datatype of KServe.
KSERVE: Final = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "bf16": "BF16",
    "f32": "FP32",
    "f64": "FP64",
    "string": BYTES,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the model; `shape` has -1 where a dimension is dynamic, and `limits` its (low, high).

    `layout` has a letter for each dimension (N, C, H, W, ? where unknown), or is empty.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    limits: tuple[Dimension, ...]
    any_rank: bool = False
    layout: str = ""

    def accepts(self, shape: Sequence[int]) -> bool:
        if tuple(shape) == self.shape:
            return ANY not in shape
        if self.any_rank:
            return all(size >= 0 for size in shape)
        return len(shape) == len(self.limits) and all(
            low <= size and (high == ANY or size <= high) for size, (low, high) in zip(shape, self.limits, strict=True)
        )


def specs(ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Of all inputs or outputs; raises StartError for a type that KServe does not know."""
    return tuple(_spec(port) for port in ports)


def name_of(port: Any) -> str:
    """The port's tensor name; OpenVINO's own models may leave it out, then the node's."""
    return str(port.get_any_name() if port.get_names() else port.get_node().get_friendly_name())


def layout_of(port: Any) -> str:
    """The letters of the port's layout where the model says it, else what its shape lets guess; may be empty."""
    layout: str = ov.layout_helpers.get_layout(port).to_string()[1:-1]
    if layout != "..." and "..." not in layout:
        return layout.replace(",", "")
    return guess_layout(_limits(port)) if layout == "..." and port.get_partial_shape().rank.is_static else ""


def _limits(port: Any) -> tuple[Dimension, ...]:
    return tuple((dimension.get_min_length(), dimension.get_max_length()) for dimension in port.get_partial_shape())


def _spec(port: Any) -> TensorSpec:
    name, element_type = name_of(port), port.get_element_type().get_type_name()
    if element_type not in KSERVE:
        raise StartError(f"tensor {name} has the type {element_type}, which KServe does not know")
    if port.get_partial_shape().rank.is_dynamic:
        return TensorSpec(name, KSERVE[element_type], (ANY,), (), any_rank=True)
    limits = _limits(port)
    shape = tuple(low if low == high else ANY for low, high in limits)
    return TensorSpec(name, KSERVE[element_type], shape, limits, layout=layout_of(port))
