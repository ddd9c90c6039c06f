"""Finds the models that a path names: versions in an OVMS model directory, as a policy chooses them, or one model file.

What is loaded lies in that directory: a link that leads out of it is refused. The directory itself may be a link, and
links within it are followed, as Kubernetes mounts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadproof_server.errors import StartError

# In the order of preference: OpenVINO IR, ONNX, TensorFlow Lite, PaddlePaddle, a frozen TensorFlow graph.
SUFFIXES: Final = (".xml", ".onnx", ".tflite", ".pdmodel", ".pb")
_VERSION_MAX: Final = 2**63 - 1

# Of each file whose name begins as the model's does: name, bytes, time of its last change in ns, and inode.
Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are served: the `specific` ones if any are given, else the `latest` ones, where 0 means all."""

    latest: int = 1
    specific: tuple[int, ...] = ()

    def choose(self, versions: Sequence[int]) -> list[int]:
        """Those of `versions` that are served, lowest first; raises ValueError for a specific one that is not there."""
        ordered = sorted(versions)
        if missing := [version for version in self.specific if version not in ordered]:
            raise ValueError(f"has no version {missing[0]}")
        return sorted(self.specific) or ordered[-self.latest :]


LATEST: Final = VersionPolicy()
ALL_VERSIONS: Final = VersionPolicy(latest=0)


def read_policy(value: Any) -> VersionPolicy:
    """OVMS's policy, as read from JSON; raises ValueError."""
    match value:
        case {"latest": {"num_versions": int(number), **more}, **others} if not more and not others:
            if 0 < number <= _VERSION_MAX and number is not True:
                return VersionPolicy(latest=number)
        case {"specific": {"versions": [*versions], **more}, **others} if versions and not more and not others:
            if all(type(version) is int and 0 < version <= _VERSION_MAX for version in versions):
                return VersionPolicy(specific=tuple(sorted(set(versions))))
        case {"all": {**more}, **others} if not more and not others:
            return ALL_VERSIONS
    raise ValueError(
        'must be {"latest": {"num_versions": 2}}, {"specific": {"versions": [1, 3]}} or {"all": {}}, '
        "with whole numbers from 1"
    )


@dataclass(frozen=True, slots=True)
class ModelFile:
    version: str
    path: Path


def find(model_path: Path, key: str = "--model_path", policy: VersionPolicy = LATEST) -> list[ModelFile]:
    """The versions `<model>/<positive integer>/<model file>` of the policy, lowest first, or a model file as version 1.

    Raises StartError, in one line that begins with `key`.
    """
    try:
        return _find(model_path, key, policy)
    except OSError as error:
        raise StartError(f"{key}: {error.filename} cannot be read ({error.strerror})") from None


def fingerprint(file: ModelFile) -> Fingerprint:
    """Changes when the model or its weights are replaced; raises OSError where they are gone."""
    found = [(entry.name, entry.stat()) for entry in _parts(file.path)]
    return tuple(sorted((name, status.st_size, status.st_mtime_ns, status.st_ino) for name, status in found))


def _find(model_path: Path, key: str, policy: VersionPolicy) -> list[ModelFile]:
    if model_path.is_file():
        if model_path.suffix not in SUFFIXES:
            raise StartError(f"{key}: {model_path} is no model file; known are {', '.join(SUFFIXES)}")
        return [ModelFile("1", model_path)]
    if not model_path.is_dir():
        raise StartError(f"{key}: {model_path} does not exist")
    versions = [int(entry.name) for entry in model_path.iterdir() if entry.is_dir() and _is_version(entry.name)]
    if not versions:
        raise StartError(f"{key}: {model_path} has no version directory; put the model into {model_path}/1/")
    try:
        chosen = policy.choose(versions)
    except ValueError as error:
        there = ", ".join(map(str, sorted(versions)))
        raise StartError(f"{key}: {model_path} {error}, only {there}; mend model_version_policy") from None
    files = [ModelFile(str(version), _model_file(model_path / str(version), key)) for version in chosen]
    for file in files:
        _require_inside(model_path, file.path, key)
    return files


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0") and int(name[:20]) <= _VERSION_MAX


def _model_file(directory: Path, key: str) -> Path:
    files = sorted(directory.iterdir())
    for suffix in SUFFIXES:
        found = [file for file in files if file.suffix == suffix]
        if len(found) > 1:
            raise StartError(f"{key}: {directory} has {len(found)} {suffix} files; leave one of them")
        if found:
            return found[0]
    raise StartError(f"{key}: {directory} has no model file; known are {', '.join(SUFFIXES)}")


def _require_inside(model_path: Path, file: Path, key: str) -> None:
    """Raises StartError where any file of the version's directory is a link that leads out of `model_path`.

    Any file, because an ONNX model names the files of its weights itself.
    """
    root = model_path.resolve()
    for directory, directories, files in os.walk(file.parent):
        for name in (".", *directories, *files):
            path = Path(directory, name)
            if not path.resolve().is_relative_to(root):
                raise StartError(f"{key}: {path} is a link that leads out of {model_path}; put the file itself there")


def _parts(file: Path) -> Iterator[os.DirEntry[str]]:
    """The model's file and those whose names begin as its own does, as its weights'."""
    with os.scandir(file.parent) as entries:
        yield from (entry for entry in entries if entry.name.startswith(file.stem))
