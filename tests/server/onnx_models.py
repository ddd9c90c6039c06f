"""Small ONNX models, as exporters write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT
Sizes = Sequence[int | str]


def save_onnx(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Sizes],
    outputs: Mapping[str, Sizes],
    constants: Mapping[str, Any] | None = None,
    *,
    version: str = "1",
    weights: str = "",
) -> Path:
    """The model directory, with the graph of float tensors as `model.onnx`; `weights` names a file of its own for the
    constants, or a directory (a name with a final slash) for a file of each."""
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    ends = [
        [helper.make_tensor_value_info(name, FLOAT, sizes) for name, sizes in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "g", *ends, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    directory = path / version
    directory.mkdir(parents=True, exist_ok=True)
    if not weights:
        onnx.save(model, directory / "model.onnx")
        return path
    onnx.save(
        model,
        directory / "model.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=not weights.endswith("/"),
        location=weights.rstrip("/"),
        size_threshold=0,
    )
    return path


def chain(*steps: tuple[Any, ...]) -> list[Any]:
    """Nodes from (type, input, output, attributes): further inputs of a node follow its first, after commas."""
    return [
        helper.make_node(kind, given.split(","), made.split(","), **(attributes[0] if attributes else {}))
        for kind, given, made, *attributes in steps
    ]
