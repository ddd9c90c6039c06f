from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof_server.errors import StartError
from loadproof_server.repository import external_weights, versions
from loadproof_server.repository.versions import ALL_VERSIONS, LATEST, Fingerprint, ModelFile, VersionPolicy
from tests.server.onnx_models import chain, save_onnx


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def open_version(path: Path, version: int = 1) -> ModelFile:
    return versions.open_version(path, version)[0]


def fingerprint(path: Path) -> Fingerprint:
    return versions.open_version(path, 1)[1]


def test_the_latest_version_is_served_by_number(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        put(tmp_path / version / "model.xml")
    put(tmp_path / "11-draft" / "model.xml")
    put(tmp_path / "010" / "model.xml")
    assert versions.find(tmp_path) == [2, 9, 10]
    assert LATEST.choose(versions.find(tmp_path)) == [10]
    assert open_version(tmp_path, 10) == ModelFile("10", tmp_path / "10" / "model.xml")


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (VersionPolicy(latest=2), [9, 10]),
        (VersionPolicy(latest=7), [2, 9, 10]),
        (VersionPolicy(specific=(2, 11)), [2, 11]),
        (ALL_VERSIONS, [2, 9, 10]),
    ],
)
def test_a_policy_chooses_versions_by_number(policy: VersionPolicy, chosen: list[int]) -> None:
    assert policy.choose([2, 9, 10]) == chosen


def test_a_specific_version_that_is_not_there_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "2" / "model.xml")
    with pytest.raises(StartError, match=r"^--model_path: .* has no version 3, only 2; mend model_version_policy$"):
        open_version(tmp_path, 3)


@pytest.mark.parametrize(
    ("value", "policy"),
    [
        ({"latest": {"num_versions": 3}}, VersionPolicy(latest=3)),
        ({"specific": {"versions": [3, 1, 3]}}, VersionPolicy(specific=(1, 3))),
        ({"all": {}}, ALL_VERSIONS),
    ],
)
def test_policies_are_read_as_ovms_writes_them(value: Any, policy: VersionPolicy) -> None:
    assert versions.read_policy(value) == policy


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "all",
        {"latest": {"num_versions": 0}},
        {"latest": {"num_versions": True}},
        {"latest": {"num_versions": 1, "more": 1}},
        {"latest": {}},
        {"specific": {"versions": []}},
        {"specific": {"versions": ["1"]}},
        {"specific": {"versions": [0]}},
        {"all": {}, "latest": {"num_versions": 1}},
        {"all": {"versions": 1}},
    ],
)
def test_other_policies_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r'^must be \{"latest": '):
        versions.read_policy(value)


def test_a_link_that_leads_out_of_the_repository_is_refused(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "model.xml")
    put(tmp_path / "outside" / "model.bin")
    inside = put(tmp_path / "m" / "1" / "model.xml")
    (inside.parent / "model.bin").symlink_to(outside.with_suffix(".bin"))
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "1").symlink_to(outside.parent)
    named = put(tmp_path / "o" / "1" / "model.onnx")  # which may name any file beside it
    (named.parent / "weights.data").symlink_to(outside)
    for name, link in (("m", "m/1/model.bin"), ("n", "n/1"), ("o", "o/1/weights.data")):
        with pytest.raises(StartError, match=rf"^--model_path: .*{link}.* is a link that leads out of .*/{name}; put"):
            open_version(tmp_path / name)


def test_links_within_the_repository_are_followed_as_kubernetes_mounts_them(tmp_path: Path) -> None:
    put(tmp_path / "..data" / "1" / "model.xml")
    (tmp_path / "1").symlink_to("..data/1")
    (tmp_path / "link").symlink_to(tmp_path)
    assert versions.find(tmp_path / "link") == [1]
    assert open_version(tmp_path / "link").version == "1"


def test_a_model_file_is_version_1(tmp_path: Path) -> None:
    path = put(tmp_path / "model.onnx")
    assert versions.find(path) == [1]
    assert open_version(path) == ModelFile("1", path, alone=True)


def test_an_ir_is_preferred_over_what_it_was_made_of(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.xml", "b.bin"):
        put(tmp_path / "1" / name)
    assert open_version(tmp_path).path.name == "b.xml"


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
        open_version(tmp_path, versions.find(tmp_path)[0])


def test_a_directory_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "m" / "1" / "model.xml")
    (tmp_path / "m").chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything
    try:
        with pytest.raises(StartError, match=r"^--model_path: .* cannot be read \(Permission denied\)"):
            versions.find(tmp_path / "m")
    finally:
        os.seteuid(user)
        (tmp_path / "m").chmod(0o700)


def test_a_path_that_is_nothing_and_a_file_that_is_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="does not exist"):
        versions.find(tmp_path / "none")
    with pytest.raises(StartError, match="is no model file"):
        versions.find(put(tmp_path / "model.txt"))


@pytest.mark.parametrize("weights", ["weights.bin", "0b6e8e0e-8d5f-4a5e-9d8f-2f1f7c1f4a10", "each/", "sub/dir/w.data"])
@pytest.mark.parametrize("alone", [False, True], ids=["a version", "a lone file"])
def test_a_fingerprint_changes_with_weights_of_any_name(tmp_path: Path, weights: str, alone: bool) -> None:
    if weights.count("/") > 1:
        (tmp_path / "m" / "1" / weights).parent.mkdir(parents=True)
    values = {name: np.full((4, 4), 2, np.float32) for name in ("w", "v")}
    nodes = chain(("MatMul", "x,w", "a"), ("MatMul", "a,v", "y"))
    model = save_onnx(tmp_path / "m", nodes, {"x": (1, 4)}, {"y": (1, 4)}, values, weights=weights)
    path = model / "1" / "model.onnx" if alone else model
    (file,) = external_weights.of(model / "1" / "model.onnx") if weights != "each/" else (model / "1" / "w",)
    before = fingerprint(path)
    assert fingerprint(path) == before
    os.utime(file, ns=(1, 1))
    touched = fingerprint(path)
    assert touched != before
    put(model / "1" / "notes.txt")
    assert (fingerprint(path) == touched) is alone  # what lies beside a lone file may be anything
    file.rename(file.with_name("gone"))
    assert fingerprint(path) != touched


def test_the_files_that_an_onnx_model_names_are_found_wherever_their_names_stand(tmp_path: Path) -> None:
    names = [f"file-{number}" * (1 + number % 40) for number in range(200)]
    entries = [b"\x0a\x08location\x12" + varint(len(name)) + name.encode() for name in names]
    filled = b"".join(entry + bytes([number]) * 20_011 for number, entry in enumerate(entries))
    (tmp_path / "model.onnx").write_bytes(filled + entries[0][:-3])
    found = {path.relative_to(tmp_path).as_posix() for path in external_weights.of(tmp_path / "model.onnx")}
    assert set(names) <= found
    put(tmp_path / "empty.onnx")
    assert external_weights.of(tmp_path / "empty.onnx") == ()
    assert external_weights.of(tmp_path / "model.xml") == ()


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


def test_a_file_that_goes_meanwhile_or_a_link_that_leads_nowhere_fails_nothing(tmp_path: Path) -> None:
    put(tmp_path / "1" / "model.xml")
    before = fingerprint(tmp_path)
    (tmp_path / "1" / "model.bin").symlink_to("later")
    assert fingerprint(tmp_path) == before
