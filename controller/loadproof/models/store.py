"""Keeps models on disk, whole or not at all: `<name>/<version>/` with the files, and `<name>/model.json`.

A model is built in `<repository>/.tmp/<name>/`, flushed to the disk and put in place by one rename; a lock makes a
second process wait and find it done. What a killed process leaves in `.tmp` is never served and goes with the next.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from loadproof.errors import LoadproofError

RECORD: Final = "model.json"


class Model(BaseModel):
    """An installed model, as its model.json says it; `directory` is what a server takes as `--model_path`."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    name: str
    version: int = 1
    description: str
    source: dict[str, str] = Field(description="package, version, file; or path; or what built it")
    licence: str
    sha256: str = Field(description="of the model's files, one after the other in the order of their names")
    size_bytes: int
    payload: str = Field("random", description="default of load.payload")
    shapes: dict[str, list[int]] = Field(default_factory=dict, description="default of load.shapes, with a batch of 1")
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict, description="default of load.ranges")
    layers: dict[str, int] = Field(default_factory=dict, description="how many of each type")
    weights: dict[str, int] = Field(default_factory=dict, description="how many values of each element type")
    directory: Path = Field(exclude=True)

    @property
    def is_intact(self) -> bool:
        """True where the files are those that were installed, byte for byte."""
        return digest(self.directory / str(self.version)) == (self.sha256, self.size_bytes)


Build = Callable[[Path, Path], dict[str, Any]]


def read(repository: Path, name: str) -> Model | None:
    """The model that `<repository>/<name>/model.json` describes; None where there is none that can be read."""
    directory = repository / name
    try:
        said = json.loads((directory / RECORD).read_bytes())
        return Model.model_validate({**said, "directory": directory})
    except (OSError, ValueError, TypeError):  # pydantic's and JSON's errors are ValueErrors
        return None


def install(repository: Path, name: str, is_wanted: Callable[[Model], bool], build: Build) -> Model:
    """The model `name`, built if it is not there, damaged, or not what is wanted.

    `build(version_directory, scratch_directory)` writes the model's files and returns what model.json says of them
    (the fields of Model from `description` on). Raises LoadproofError when the disk refuses, and where the
    directory holds what was not installed here: that is somebody's own.
    """
    target = repository / name
    if target.exists() and not (target / RECORD).exists():
        raise LoadproofError(
            f"{target}: has no {RECORD}, so Loadproof did not put it there; move it away or give --name"
        )
    if _has(repository, name, is_wanted) and (model := read(repository, name)):
        return model
    try:
        with _workshop(repository, name) as workshop:
            if _has(repository, name, is_wanted) and (model := read(repository, name)):
                return model  # another process was quicker
            new, scratch = workshop / "new", workshop / "scratch"
            version = new / "1"
            version.mkdir(parents=True)
            scratch.mkdir()
            details = build(version, scratch)
            sha256, size_bytes = digest(version)
            model = Model(name=name, sha256=sha256, size_bytes=size_bytes, directory=target, **details)
            (new / RECORD).write_text(model.model_dump_json(indent=2) + "\n")
            _flush(new)
            _put_in_place(new, target, workshop / "old")
            return model
    except OSError as error:
        raise LoadproofError(
            f"{repository}: cannot hold the model {name}: {error.strerror or error}; make room or give --models DIR"
        ) from None


def _has(repository: Path, name: str, is_wanted: Callable[[Model], bool]) -> bool:
    model = read(repository, name)
    return model is not None and is_wanted(model) and model.is_intact


@contextmanager
def _workshop(repository: Path, name: str) -> Iterator[Path]:
    """A directory on the repository's file system, ours alone until the end: the kernel frees a dead owner's lock."""
    workshop = repository / ".tmp" / name
    workshop.mkdir(parents=True, exist_ok=True)
    with (workshop / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _sweep(workshop)
            yield workshop
        finally:
            _sweep(workshop)


def _sweep(workshop: Path) -> None:
    for part in ("new", "scratch", "old"):
        shutil.rmtree(workshop / part, ignore_errors=True)


def _put_in_place(new: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    new.rename(target)
    _sync(target.parent)


def _flush(directory: Path) -> None:
    """Everything below the directory reaches the disk before the rename does."""
    for path in sorted(directory.rglob("*"), reverse=True):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(directory: Path) -> tuple[str, int]:
    """sha256 and size of all files below the directory, one after the other in the order of their names."""
    sha256, size = hashlib.sha256(), 0
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sha256.update(block)
                size += len(block)
    return sha256.hexdigest(), size
