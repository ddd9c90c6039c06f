"""The models of `benchmarks.serving`, with fixed shapes, and one request for each as both protocols carry it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset13 as op
from tritonclient.grpc import service_pb2 as pb

ROOT: Final = Path(__file__).parent.parent
SHAPES: Final = {"null": (1, 4), "mlp": (1, 64), "ocr-cls": (1, 3, 48, 192), "resnet50": (1, 3, 224, 224)}


@dataclass(frozen=True, slots=True)
class Model:
    """A model file with one input, FP32."""

    name: str
    file: Path
    input_name: str
    shape: tuple[int, ...]

    @property
    def payload(self) -> Any:
        return np.random.default_rng(1).standard_normal(self.shape).astype(np.float32)


def model_of(name: str, directory: Path) -> Model:
    """Makes the model `name` of SHAPES in `directory`; larger ones come from `loadproof model get`."""
    made = _catalogued(name) if name in ("ocr-cls", "resnet50") else perceptron(name, 0 if name == "null" else 3)
    made.reshape(list(SHAPES[name]))
    file = directory / f"{name}.xml"
    ov.save_model(made, file, compress_to_fp16=False)
    return Model(name, file, made.input(0).get_any_name(), SHAPES[name])


def perceptron(name: str, layers: int) -> Any:
    """y = x + 0 through so many layers of 64 by 64 with ReLU, float32, seeded."""
    rng = np.random.default_rng(1)
    parameter = op.parameter(list(SHAPES[name]), np.float32, name="x")
    node = op.add(parameter, op.constant(np.float32(0)))
    for _ in range(layers):
        weights = op.constant(rng.standard_normal((64, 64)).astype(np.float32) / 8)
        node = op.relu(op.matmul(node, weights, False, False))
    parameter.output(0).set_names({"x"})
    node.output(0).set_names({"y"})
    return ov.Model([op.result(node)], [parameter], name)


def _catalogued(name: str) -> Any:
    subprocess.run([Path(sys.executable).parent / "loadproof", "model", "get", name], cwd=ROOT, check=True)
    (file,) = [path for path in (ROOT / "models" / name / "1").iterdir() if path.suffix in (".xml", ".onnx")]
    return ov.Core().read_model(file)


def save_bodies(model: Model, directory: Path) -> None:
    """The gRPC frame (no compression, 4-byte length, message), the binary REST body and the JSON one, for h2load."""
    values = model.payload
    request = pb.ModelInferRequest(model_name=model.name, raw_input_contents=[values.tobytes()])
    request.inputs.add(name=model.input_name, datatype="FP32", shape=model.shape)
    message = request.SerializeToString()
    (directory / "grpc").write_bytes(struct.pack(">BI", 0, len(message)) + message)
    tensor = {"name": model.input_name, "datatype": "FP32", "shape": model.shape}
    binary = {**tensor, "parameters": {"binary_data_size": values.nbytes}}
    header = json.dumps({"inputs": [binary], "parameters": {"binary_data_output": True}}).encode()
    (directory / "rest").write_bytes(header + values.tobytes())
    (directory / "rest-header-length").write_text(str(len(header)))
    (directory / "json").write_text(json.dumps({"inputs": [{**tensor, "data": values.ravel().tolist()}]}))
