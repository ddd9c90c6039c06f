"""Finds the models that a path names: versions in an OVMS model directory, as a policy chooses them, or one model file.

What is loaded lies in that directory: a link that leads out of it is refused. The directory itself may be a link, and
links within it are followed, as Kubernetes mounts them. A version's fingerprint covers all files of its directory,
because an ONNX model names the files of its weights itself; that of a lone model file covers those that it names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadproof_server.errors import StartError
from loadproof_server.repository import external_weights

# In the order of preference: OpenVINO IR, ONNX, TensorFlow Lite, PaddlePaddle, a frozen TensorFlow graph.
SUFFIXES: Final = (".xml", ".onnx", ".tflite", ".pdmodel", ".pb")
_VERSION_MAX: Final = 2**63 - 1

# Of each file that belongs to the model: path, bytes, time of its last change in ns, and inode.
Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are served: the `specific` ones if any are given, else the `latest` ones, where 0 means all."""

    latest: int = 1
    specific: tuple[int, ...] = ()

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Those of `versions` that are to be served, lowest first; specific ones even where they are not there."""
        return sorted(self.specific) or sorted(versions)[-self.latest :]


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
    """A model's file: in the directory of its version, or a lone file, whose directory has what is not the model's."""

    version: str
    path: Path
    alone: bool = False


def find(model_path: Path, key: str = "--model_path") -> list[int]:
    """The numbers of the versions `<model>/<positive integer>/` that are there, lowest first; 1 for a model file.

    Raises StartError, in one line that begins with `key`.
    """
    try:
        return _find(model_path, key)
    except OSError as error:
        raise _unreadable(key, error) from None


def open_version(model_path: Path, version: int, key: str = "--model_path") -> tuple[ModelFile, Fingerprint]:
    """The version's model file, and what changes when the model or its weights are replaced; raises StartError."""
    try:
        if model_path.is_file():
            file = ModelFile("1", model_path, alone=True)
            return file, _fingerprint(_parts(model_path))
        directory = model_path / str(version)
        if not directory.is_dir():
            there = ", ".join(map(str, _find(model_path, key)))
            raise StartError(f"{key}: {model_path} has no version {version}, only {there}; mend model_version_policy")
        file = ModelFile(str(version), _model_file(directory, key))
        _require_inside(model_path, directory, key)
        return file, _fingerprint(_files(directory))
    except OSError as error:
        raise _unreadable(key, error) from None


def _unreadable(key: str, error: OSError) -> StartError:
    return StartError(f"{key}: {error.filename} cannot be read ({error.strerror})")


def _fingerprint(files: Iterable[os.DirEntry[str] | Path]) -> Fingerprint:
    found = set()
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # a file that has just gone is another fingerprint next time
            status = file.stat()
            found.add((os.fspath(file), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(sorted(found))


def _find(model_path: Path, key: str) -> list[int]:
    if model_path.is_file():
        if model_path.suffix not in SUFFIXES:
            raise StartError(f"{key}: {model_path} is no model file; known are {', '.join(SUFFIXES)}")
        return [1]
    if not model_path.is_dir():
        raise StartError(f"{key}: {model_path} does not exist")
    versions = sorted(int(entry.name) for entry in model_path.iterdir() if entry.is_dir() and _is_version(entry.name))
    if not versions:
        raise StartError(f"{key}: {model_path} has no version directory; put the model into {model_path}/1/")
    return versions


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


def _require_inside(model_path: Path, directory: Path, key: str) -> None:
    """Raises StartError where the version's directory, or a file in it, is a link that leads out of `model_path`."""
    root = model_path.resolve()
    for path in (directory, *(Path(entry.path) for entry in _files(directory) if entry.is_symlink())):
        if not path.resolve().is_relative_to(root):
            raise StartError(f"{key}: {path} is a link that leads out of {model_path}; put the file itself there")


def _files(directory: Path | str) -> Iterator[os.DirEntry[str]]:
    """All files below the directory, of which a version may have thousands; links are not followed."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry


def _parts(file: Path) -> Iterator[os.DirEntry[str] | Path]:
    """A lone model file, those whose names begin as its own does, as its weights', and those that it names."""
    with os.scandir(file.parent) as entries:
        yield from (entry for entry in entries if entry.name.startswith(file.stem))
    yield from (path for path in external_weights.of(file) if os.path.exists(path))  # which takes any name
