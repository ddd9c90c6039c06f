"""Models on disk: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loadproof.errors import LoadproofError
from loadproof.models import store

DETAILS = {"description": "two files", "source": {"built": "a test"}, "licence": "none"}

# Installs `m` from two files. argv: the folder to work in, seconds that a build takes, and how often to do it over: the
# n-th time in a folder of its own, by a child that kills itself with signal 9 at its n-th step in the file system.
INSTALLER = """
import os, signal, sys, time
from pathlib import Path
from loadproof.models import store

place, build_s, kills = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])

def build(version, scratch):
    with (place / "builds").open("a") as log:
        log.write("b")
    time.sleep(build_s)
    (version / "model.xml").write_text("<net/>")
    (version / "model.bin").write_bytes(bytes(100_000))
    return {"description": "two files", "source": {"built": "a test"}, "licence": "none"}

def install(repository):
    return store.install(repository, "m", lambda model: True, build)

def die_at(deadly, repository):
    steps = 0
    def watch(event, arguments):
        nonlocal steps
        if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "open") and str(repository) in str(arguments[0]):
            steps += 1
            if steps == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)

for deadly in range(1, kills + 1):
    repository = place / f"{deadly}" / "models"
    if (child := os.fork()) == 0:
        die_at(deadly, repository)
        install(repository)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if not kills:
    print(install(place / "models").sha256)
"""


def installer(place: Path, build_s: float = 0, kills: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INSTALLER, str(place), str(build_s), str(kills)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    with process:
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out


def build(version: Path, scratch: Path) -> dict[str, Any]:
    (version / "model.xml").write_text("<net/>")
    (version / "model.bin").write_bytes(b"weights")
    return DETAILS


def always(model: store.Model) -> bool:
    return True


def refuse(version: Path, scratch: Path) -> dict[str, Any]:
    raise AssertionError("nothing was to be built")


def test_an_installed_model_is_found_again_and_not_built_again(tmp_path: Path) -> None:
    model = store.install(tmp_path, "m", always, build)
    assert model.directory == tmp_path / "m"
    assert (tmp_path / "m" / "1" / "model.bin").read_bytes() == b"weights"
    assert model.size_bytes == 13
    assert store.read(tmp_path, "m") == model
    assert store.install(tmp_path, "m", always, refuse) == model


def test_the_digest_is_that_of_the_files_one_after_the_other(tmp_path: Path) -> None:
    model = store.install(tmp_path, "m", always, build)
    shown = subprocess.run(["sha256sum"], input=b"weights<net/>", capture_output=True, check=True)
    assert shown.stdout.decode().split()[0] == model.sha256


@pytest.mark.parametrize("damage", ["cut off", "changed", "gone", "no record"])
def test_a_damaged_model_is_noticed_and_replaced(tmp_path: Path, damage: str) -> None:
    model = store.install(tmp_path, "m", always, build)
    weights = model.directory / "1" / "model.bin"
    if damage == "no record":
        (model.directory / store.RECORD).write_text("{")
    elif damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(b"weight" if damage == "cut off" else b"Weights")
        assert not model.is_intact
    assert store.install(tmp_path, "m", always, build) == model
    assert model.is_intact


def test_a_build_that_fails_leaves_the_old_model_and_no_rubbish(tmp_path: Path) -> None:
    model = store.install(tmp_path, "m", always, build)

    def fail(version: Path, scratch: Path) -> dict[str, Any]:
        (version / "half").write_text("x")
        raise LoadproofError("no network")

    with pytest.raises(LoadproofError, match="no network"):
        store.install(tmp_path, "m", lambda model: False, fail)
    assert store.read(tmp_path, "m") == model
    assert model.is_intact
    assert [path.name for path in (tmp_path / ".tmp" / "m").iterdir()] == ["lock"]


def test_a_process_killed_at_any_step_leaves_no_half_model(tmp_path: Path) -> None:
    kills = 60
    codes = [int(line) for line in finish(installer(tmp_path, kills=kills)).split()]
    assert codes == sorted(codes)
    assert set(codes) == {-9, 0}  # so many kills reach past the last step
    left = []
    for number in range(1, kills + 1):
        repository = tmp_path / str(number) / "models"
        model = store.read(repository, "m")
        assert model is None or model.is_intact
        assert (repository / "m").exists() == (model is not None)
        left.append(model is not None)
        assert store.install(repository, "m", always, refuse if model else build).is_intact
        if model is None:
            assert [path.name for path in (repository / ".tmp" / "m").iterdir()] == ["lock"]
    assert left == sorted(left)
    assert 5 < left.count(False) < codes.count(-9)  # some were killed after the rename, with the model in place


def test_two_at_once_build_it_once_and_both_have_it(tmp_path: Path) -> None:
    processes = [installer(tmp_path, build_s=1) for _ in range(2)]
    assert len({finish(process) for process in processes}) == 1
    assert (tmp_path / "builds").read_text() == "b"


def test_a_killed_owner_s_lock_does_not_keep_others_out(tmp_path: Path) -> None:
    with installer(tmp_path, build_s=60) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "builds").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
    assert store.read(tmp_path / "models", "m") is None
    assert store.install(tmp_path / "models", "m", always, build).is_intact


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadproofError, match=r"cannot hold the model m: .*; make room or give --models DIR"):
        store.install(tmp_path / "file", "m", always, build)
