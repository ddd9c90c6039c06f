"""One process at a time writes into a campaign's directory; the others are told who does, and touch nothing."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadproof import lock
from loadproof.errors import LoadproofError
from tests.controller.test_cli import ROOT, loadproof

OLD = ROOT / "tests/data/0.1.0/run"
HOLD = """
import sys, pathlib
from loadproof import lock
with lock.{function}(pathlib.Path(sys.argv[1]), "--out"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(directory: Path, function: str = "hold") -> subprocess.Popen[str]:
    """A process that holds the directory, or fails; it says which."""
    command = [sys.executable, "-c", HOLD.format(function=function), str(directory)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT / "controller", stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_second_comer_is_told_who_holds_it(tmp_path: Path) -> None:
    told = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since 20\d\d-\d\d-\d\dT"
    with lock.hold(tmp_path, "--resume"), pytest.raises(LoadproofError, match=told), lock.hold(tmp_path, "--resume"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--resume", "--out"])
def test_a_campaign_that_is_being_measured_is_left_alone(tmp_path: Path, option: str) -> None:
    directory = Path(shutil.copytree(OLD, tmp_path / "campaign"))
    with lock.hold(directory, "--out"):
        before = files(directory)
        plan = [] if option == "--resume" else ["plans/quick.toml"]
        done = loadproof("run", *plan, option, str(directory))
        assert files(directory) == before
    assert done.returncode == 1
    assert f"process {os.getpid()} on " in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        process.kill()
    assert (tmp_path / lock.NAME).exists()
    with lock.claim(tmp_path, "--out"):  # what a killed process left there is nothing
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_come_at_one_moment_one_gets_the_directory(tmp_path: Path) -> None:
    comers = [holder(tmp_path / "out", "claim") for _ in range(6)]
    said = []
    for comer in comers:
        assert comer.stdout is not None
        said.append(comer.stdout.readline())
    errors = [comer.communicate("")[1] for comer in comers]
    assert sorted(said) == [*[""] * 5, "held\n"]
    assert all("is measuring there" in error for error, line in zip(errors, said, strict=True) if not line), errors
    # Nothing was written there; the directory itself stays where one that did not get it was the first to make it.
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_stranger_s_directory_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    before = tmp_path.stat().st_mtime_ns
    with pytest.raises(LoadproofError, match="has something in it already"), lock.claim(tmp_path, "--out"):
        pass
    assert tmp_path.stat().st_mtime_ns == before


def test_children_do_not_keep_it(tmp_path: Path) -> None:
    with lock.hold(tmp_path, "--out"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with lock.hold(tmp_path, "--out"):
            pass
    finally:
        child.kill()
        child.wait()
