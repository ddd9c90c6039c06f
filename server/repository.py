"""Finds the model that `--model_path` names: an OVMS model directory (its latest version) or one model file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.errors import StartError

# In the order of preference: OpenVINO IR, ONNX, TensorFlow Lite, PaddlePaddle, a frozen TensorFlow graph.
SUFFIXES: Final = (".xml", ".onnx", ".tflite", ".pdmodel", ".pb")


@dataclass(frozen=True, slots=True)
class ModelFile:
    version: str
    path: Path


def find(model_path: Path) -> ModelFile:
    """The latest version of `<model>/<positive integer>/<model file>`, or a model file itself as version 1."""
    try:
        return _find(model_path)
    except OSError as error:
        raise StartError(f"--model_path: {error.filename} cannot be read ({error.strerror})") from None


def _find(model_path: Path) -> ModelFile:
    if model_path.is_file():
        if model_path.suffix not in SUFFIXES:
            raise StartError(f"--model_path: {model_path} is no model file; known are {', '.join(SUFFIXES)}")
        return ModelFile("1", model_path)
    if not model_path.is_dir():
        raise StartError(f"--model_path: {model_path} does not exist")
    versions = [int(entry.name) for entry in model_path.iterdir() if entry.is_dir() and _is_version(entry.name)]
    if not versions:
        raise StartError(f"--model_path: {model_path} has no version directory; put the model into {model_path}/1/")
    return ModelFile(str(max(versions)), _model_file(model_path / str(max(versions))))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _model_file(directory: Path) -> Path:
    files = sorted(directory.iterdir())
    for suffix in SUFFIXES:
        found = [file for file in files if file.suffix == suffix]
        if len(found) > 1:
            raise StartError(f"--model_path: {directory} has {len(found)} {suffix} files; leave one of them")
        if found:
            return found[0]
    raise StartError(f"--model_path: {directory} has no model file; known are {', '.join(SUFFIXES)}")
