"""Brings model files into the repository; the one place of the controller that uses OpenVINO, loaded when needed."""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Final

from loadproof.errors import LoadproofError

SERVED_AS_THEY_ARE: Final = (".onnx", ".tflite", ".xml")
_LOCATION: Final = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x1f])", re.DOTALL)
_LONGEST_PATH_BYTES: Final = 4200  # with the entry's first bytes
MODEL_FILES: Final = (".xml", ".onnx", ".tflite", ".pdmodel", ".pb")  # in a directory the first of these is the model


def runtime() -> Any:
    """The openvino module, with its operation set 13."""
    try:
        importlib.import_module("openvino.opset13")
        return importlib.import_module("openvino")
    except ImportError:
        raise LoadproofError(
            "OpenVINO is not installed here, and this model needs it: pip install 'loadproof[server]'"
        ) from None


def model_in(path: Path) -> Path:
    """What OpenVINO is to read of `path`: of an OVMS model directory (`<model>/<version>/...`) or of one version of it
    the model of the latest version; a SavedModel directory or a file is the model itself."""
    if not path.is_dir():
        return path
    versions = [entry for entry in path.iterdir() if re.fullmatch("[1-9][0-9]*", entry.name) and entry.is_dir()]
    latest = max(versions, key=lambda version: int(version.name), default=path)
    if (latest / "saved_model.pb").exists():
        return latest
    files = sorted(latest.iterdir())
    found = (file for suffix in MODEL_FILES for file in files if file.suffix.lower() == suffix)
    return next(found, latest)


def weights_of(model: Path) -> list[Path]:
    """The files beside a model file that hold its weights: of IR and PaddlePaddle those of the same stem, of ONNX those
    that it names, by whatever name. Raises OSError where the model cannot be read."""
    named = [model.with_suffix(suffix) for suffix in (".bin", ".pdiparams")]
    if model.suffix.lower() == ".onnx":
        named += [model.parent / name for name in sorted(_external_data(model))]
    return [path for path in dict.fromkeys(named) if os.path.isfile(path)]  # which takes any name


def _external_data(model: Path) -> set[str]:
    """The values of all entries `location` (ONNX, docs/ExternalData.md), found by their bytes in protobuf's encoding:
    the tag and text of the key, the tag of the value, its length as a varint of at most two bytes."""
    found = set()
    held = b""
    with model.open("rb") as file:
        while block := file.read(1 << 20):
            held += block
            for entry in _LOCATION.finditer(held):
                low, high = [*entry[1], 0][:2]
                name = held[entry.end() : entry.end() + (low & 127) + 128 * high]
                found.add(name.decode(errors="surrogateescape"))
            held = held[-_LONGEST_PATH_BYTES:]
    return found


def place(source: Path, directory: Path) -> None:
    """Put the model at `source` into the version directory as `model.*`, readable by OpenVINO; else LoadproofError.

    ONNX, TFLite and IR are copied; what else OpenVINO's frontends read (a TensorFlow SavedModel directory or frozen
    graph, PaddlePaddle) becomes FP32 IR, and so does an ONNX file that keeps its weights in other files.

    Core.read_model has the frontends of openvino.convert_model; convert_model itself sends usage statistics out.
    """
    core = runtime().Core()
    model = _read(core, source)
    if source.suffix.lower() in SERVED_AS_THEY_ARE:
        copy = directory / f"model{source.suffix.lower()}"
        shutil.copyfile(source, copy)
        weights = source.with_suffix(".bin")
        if copy.suffix == ".xml" and weights.exists():
            shutil.copyfile(weights, copy.with_suffix(".bin"))
        if _stands_alone(core, copy):
            return
        copy.unlink()
    save(model, directory)


def save(model: Any, directory: Path) -> None:
    """Write an openvino.Model as IR, in the precision that it has (OpenVINO's default would halve FP32 weights)."""
    runtime().save_model(model, directory / "model.xml", compress_to_fp16=False)


def contents(directory: Path) -> dict[str, dict[str, int]]:
    """What the model of a version directory is made of: `layers`, how many of each type, and `weights`, how many values
    of each element type; empty where OpenVINO is not installed."""
    try:
        core = runtime().Core()
    except LoadproofError:
        return {"layers": {}, "weights": {}}
    layers: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for layer in _read(core, model_in(directory)).get_ops():
        if layer.get_type_name() == "Constant":
            weights[layer.get_element_type().get_type_name()] += math.prod(layer.shape)
        else:
            layers[layer.get_type_name()] += 1
    return {"layers": dict(sorted(layers.items())), "weights": dict(sorted(weights.items()))}


def _read(core: Any, path: Path) -> Any:
    try:
        return core.read_model(path)
    except RuntimeError as error:
        raise LoadproofError(
            f"{path}: OpenVINO cannot read this model; allowed: ONNX, TFLite, OpenVINO IR (.xml with its .bin), "
            "PaddlePaddle, a TensorFlow SavedModel directory or frozen graph, or a directory as OVMS has it",
            detail=str(error).strip(),
        ) from None


def _stands_alone(core: Any, path: Path) -> bool:
    try:
        core.read_model(path)
    except RuntimeError:
        return False
    return True
