"""The names under which a model is served are those that its file declares, for the server and the reference alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from loadproof import reference
from loadproof_server.engine.preparation import Preparation
from loadproof_server.engine.requests import Engine
from tests.server.onnx_models import chain, save_onnx
from tests.server.small_models import parameter, save
from tests.server.tflite_models import relu_model

Build = Callable[[Path], Path]  # makes the model below a directory, and returns the file

X = {"x": (2, 2)}


def of_onnx(*steps: tuple[object, ...], outputs: tuple[str, ...] = ("logits",), **constants: object) -> Build:
    def build(path: Path) -> Path:
        save_onnx(path, chain(*steps), X, dict.fromkeys(outputs, (2, 2)), constants)
        return path / "1" / "model.onnx"

    return build


def converted(build: Build, *, output_names: bool = True) -> Build:
    """The same model as IR of OpenVINO's converter, which merges tensors; older ones wrote no output_names."""

    def convert(path: Path) -> Path:
        ir = path / "1" / "model.xml"
        ov.save_model(ov.convert_model(build(path)), ir, compress_to_fp16=False)
        if not output_names:
            ir.write_text(re.sub(r' output_names="[^"]*"', "", ir.read_text()))
        return ir

    return convert


def nameless(path: Path) -> Path:
    """IR whose tensors have no names, as converters of PyTorch made it."""
    x = parameter("x", ov.Type.f32, [2, 2])
    ir = save(path, [x], {"y": op.relu(x), "z": op.tanh(x)}) / "1" / "model.xml"
    ir.write_text(re.sub(r' (output_)?names="(y|z)"', "", ir.read_text()))
    return ir


def many_names(path: Path) -> Path:
    """IR whose tensors have several names, none of which is a node's."""
    x = op.parameter([2, 2], ov.Type.f32, name="node")
    x.output(0).set_names({"b", "a"})
    y = op.relu(x)
    y.output(0).set_names({"d", "c"})
    (path / "1").mkdir(parents=True)
    ov.save_model(ov.Model([op.result(y)], [x], "m"), path / "1" / "model.xml")
    return path / "1" / "model.xml"


def of_tflite(path: Path) -> Path:
    relu_model(path, ["serving_default_x:0", "a", "StatefulPartitionedCall:0"], (2, 2))
    return path / "1" / "model.tflite"


CAST = of_onnx(("Cast", "x", "/x16", {"to": 10}), ("Relu", "/x16", "/r"), ("Cast", "/r", "logits", {"to": 1}))
IDENTITY = of_onnx(("Identity", "x", "/a"), ("Relu", "/a", "/b"), ("Identity", "/b", "logits"))
FLAT = of_onnx(("Flatten", "x", "/a"), ("Relu", "/a", "/b"), ("Flatten", "/b", "logits"))
TURNED = of_onnx(
    ("Transpose", "x", "/a", {"perm": [0, 1]}), ("Relu", "/a", "/b"), ("Transpose", "/b", "logits", {"perm": [0, 1]})
)
RESHAPED = of_onnx(("Reshape", "x,s", "/a"), ("Relu", "/a", "/b"), ("Reshape", "/b,s", "logits"), s=np.array([2, 2]))
MERGED = of_onnx(("Relu", "x", "b"), ("Relu", "x", "a"), ("Identity", "a", "c"), outputs=("c", "b", "a"))
THROUGH = of_onnx(("Identity", "x", "y"), ("Identity", "x", "z"), outputs=("z", "y"))
ORDER = of_onnx(("Split", "x", "p,q", {"axis": 1}), ("Concat", "p,q", "r", {"axis": 1}), outputs=("r", "q", "p"))
MODELS: dict[str, tuple[Build, list[str], list[str]]] = {
    "Cast": (CAST, ["x"], ["logits"]),
    "Identity": (IDENTITY, ["x"], ["logits"]),
    "Flatten": (FLAT, ["x"], ["logits"]),
    "Transpose": (TURNED, ["x"], ["logits"]),
    "Reshape": (RESHAPED, ["x"], ["logits"]),
    "merged outputs": (MERGED, ["x"], ["c", "b", "a"]),
    "an input passed through": (THROUGH, ["x"], ["z", "y"]),
    "several outputs of a node": (ORDER, ["x"], ["r", "q", "p"]),
    "IR with Identity": (converted(IDENTITY), ["x"], ["logits"]),
    "IR with Transpose": (converted(TURNED), ["x"], ["logits"]),
    "IR with Cast": (converted(CAST), ["x"], ["logits"]),
    "IR with merged outputs": (converted(MERGED), ["x"], ["c", "b", "a"]),
    "IR without output_names": (converted(MERGED, output_names=False), ["x"], ["c", "b", "a"]),
    "IR without names": (nameless, ["x"], ["out_0", "out_1"]),
    "IR with several names": (many_names, ["a"], ["c"]),
    "TFLite": (of_tflite, ["serving_default_x:0"], ["StatefulPartitionedCall:0"]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_server_and_reference_use_the_names_that_the_file_declares(kind: str, tmp_path: Path) -> None:
    build, inputs, outputs = MODELS[kind]
    file = build(tmp_path / "m")
    engine = Engine(file)
    assert [spec.name for spec in engine.inputs] == inputs
    assert [spec.name for spec in engine.outputs] == outputs
    engine.close()
    assert reference.names(ov.Core().read_model(file)) == (inputs, outputs)


def test_a_copy_beside_the_cache_of_compiled_models_has_the_same_names(tmp_path: Path) -> None:
    file = CAST(tmp_path / "m")
    for _ in range(2):  # the second is read from the cache
        engine = Engine(file, properties={"CACHE_DIR": str(tmp_path / "cache")})
        assert ([spec.name for spec in engine.inputs], [spec.name for spec in engine.outputs]) == (["x"], ["logits"])
        engine.close()


@pytest.mark.parametrize("name", ["x", "/a"])
def test_a_shape_is_given_by_the_declared_name_or_any_other_that_openvino_knows(name: str, tmp_path: Path) -> None:
    file = converted(IDENTITY)(tmp_path / "m")
    engine = Engine(file, preparation=Preparation(shape={name: ((5, 5), (2, 2))}))
    assert [(spec.name, spec.shape) for spec in engine.inputs] == [("x", (5, 2))]
    engine.close()


def test_preparing_a_model_keeps_its_names(tmp_path: Path) -> None:
    file = CAST(tmp_path / "m")
    preparation = Preparation(
        layout={"x": ("NC", "NC"), "logits": ("CN", "NC")}, mean={"x": (1.0,)}, precision={"": ("UINT8", "FP32")}
    )
    engine = Engine(file, preparation=preparation)
    assert [(spec.name, spec.datatype) for spec in engine.inputs] == [("x", "UINT8")]
    assert [spec.name for spec in engine.outputs] == ["logits"]
    answer = engine.infer([np.array([[1, 2], [3, 4]], np.uint8)], [0])
    assert np.frombuffer(answer.outputs[0].raw, np.float32).tolist() == [0, 2, 1, 3]
    engine.close()


def test_outputs_that_were_merged_or_reordered_have_their_own_values(tmp_path: Path) -> None:
    file = ORDER(tmp_path / "m")
    engine = Engine(file)
    answer = engine.infer([np.array([[1, 2], [3, 4]], np.float32)], [0, 1, 2])
    found = {output.spec.name: np.frombuffer(output.raw, np.float32).tolist() for output in answer.outputs}
    assert found == {"r": [1, 2, 3, 4], "q": [2, 4], "p": [1, 3]}
    engine.close()
