"""An engine that cannot be had is one clear error: which, why, and the cure."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest

from loadproof.errors import LoadproofError
from loadproof.launch import engine
from tests.ports import free_ports


def refusal(name: str | None, log: Path) -> LoadproofError:
    with pytest.raises(LoadproofError) as caught, engine.connect(name, log):
        pass
    return caught.value


def test_an_engine_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    told = str(refusal(f"tcp://127.0.0.1:{port}", tmp_path / "log"))
    assert told.startswith(f"server.engine = tcp://127.0.0.1:{port}: no Docker engine answers (") and "refused" in told
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK drops a Unix socket that did not connect
        told = str(refusal(None, tmp_path / "log"))
        gc.collect()
    assert told.startswith(f"unix://{tmp_path}/none.sock: no Docker engine answers (No such file")


def test_the_environment_does_not_move_the_server_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.7:2375")
    assert "say so in the plan by server.engine and server.address" in str(refusal(None, tmp_path / "log"))


def test_a_machine_that_ssh_does_not_reach_is_told_in_ssh_s_own_words(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    error = refusal(f"ssh://nobody@127.0.0.1:{port}", tmp_path / "log")
    assert "ssh exited with code 255" in str(error) and f"ssh ssh://nobody@127.0.0.1:{port}" in str(error)
    assert "Connection refused" in error.detail


def test_without_ssh_the_cure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install openssh-client" in str(refusal("ssh://h", tmp_path / "log"))
