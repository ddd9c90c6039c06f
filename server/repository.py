"""Finds the model that a path names: an OVMS model directory (its latest version) or one model file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.errors import StartError

# In the order of preference: OpenVINO IR, ONNX, TensorFlow Lite, PaddlePaddle, a frozen TensorFlow graph.
SUFFIXES: Final = (".xml", ".onnx", ".tflite", ".pdmodel", ".pb")


# Of each file whose name begins as the model's does: name, bytes, time of its last change in ns, and inode.
Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ModelFile:
    version: str
    path: Path


def find(model_path: Path, key: str = "--model_path") -> ModelFile:
    """The latest version of `<model>/<positive integer>/<model file>`, or a model file itself as version 1.

    Raises StartError, in one line that begins with `key`.
    """
    try:
        return _find(model_path, key)
    except OSError as error:
        raise StartError(f"{key}: {error.filename} cannot be read ({error.strerror})") from None


def fingerprint(file: ModelFile) -> Fingerprint:
    """Tells whether the model or its weights were replaced; raises OSError where they are gone."""
    with os.scandir(file.path.parent) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if entry.name.startswith(file.path.stem)]
    return tuple(sorted((name, status.st_size, status.st_mtime_ns, status.st_ino) for name, status in found))


def _find(model_path: Path, key: str) -> ModelFile:
    if model_path.is_file():
        if model_path.suffix not in SUFFIXES:
            raise StartError(f"{key}: {model_path} is no model file; known are {', '.join(SUFFIXES)}")
        return ModelFile("1", model_path)
    if not model_path.is_dir():
        raise StartError(f"{key}: {model_path} does not exist")
    versions = [int(entry.name) for entry in model_path.iterdir() if entry.is_dir() and _is_version(entry.name)]
    if not versions:
        raise StartError(f"{key}: {model_path} has no version directory; put the model into {model_path}/1/")
    return ModelFile(str(max(versions)), _model_file(model_path / str(max(versions)), key))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _model_file(directory: Path, key: str) -> Path:
    files = sorted(directory.iterdir())
    for suffix in SUFFIXES:
        found = [file for file in files if file.suffix == suffix]
        if len(found) > 1:
            raise StartError(f"{key}: {directory} has {len(found)} {suffix} files; leave one of them")
        if found:
            return found[0]
    raise StartError(f"{key}: {directory} has no model file; known are {', '.join(SUFFIXES)}")
