from __future__ import annotations

import os
from pathlib import Path

import pytest

from server import repository
from server.errors import StartError
from server.repository import ModelFile


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_latest_version_is_served_by_number(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        put(tmp_path / version / "model.xml")
    put(tmp_path / "11-draft" / "model.xml")
    put(tmp_path / "010" / "model.xml")
    assert repository.find(tmp_path) == ModelFile("10", tmp_path / "10" / "model.xml")


def test_a_model_file_is_version_1(tmp_path: Path) -> None:
    path = put(tmp_path / "model.onnx")
    assert repository.find(path) == ModelFile("1", path)


def test_an_ir_is_preferred_over_what_it_was_made_of(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.xml", "b.bin"):
        put(tmp_path / "1" / name)
    assert repository.find(tmp_path).path.name == "b.xml"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model.xml"], "no version directory"),
        (["1/notes.txt"], "no model file; known are .xml, .onnx"),
        (["1/a.onnx", "1/b.onnx"], "has 2 .onnx files"),
    ],
)
def test_a_directory_that_is_no_model_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        put(tmp_path / name)
    with pytest.raises(StartError, match=f"^--model_path: .*{message}"):
        repository.find(tmp_path)


def test_a_directory_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "m" / "1" / "model.xml")
    (tmp_path / "m").chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything
    try:
        with pytest.raises(StartError, match=r"^--model_path: .* cannot be read \(Permission denied\)"):
            repository.find(tmp_path / "m")
    finally:
        os.seteuid(user)
        (tmp_path / "m").chmod(0o700)


def test_a_path_that_is_nothing_and_a_file_that_is_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="does not exist"):
        repository.find(tmp_path / "none")
    with pytest.raises(StartError, match="is no model file"):
        repository.find(put(tmp_path / "model.txt"))
