"""What a container is given: ports where clients come, a user that is not root, complaints by the plan's keys."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import docker
import pytest

from loadproof.launch import isolation
from loadproof.models import Model
from loadproof.plan import Server


def server(**keys: Any) -> Server:
    return Server(model="m", launch="docker", **keys)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    directory = tmp_path / "m"
    (directory / "1").mkdir(parents=True)
    (directory / "1/model.onnx").write_bytes(b"weights")
    (directory / "1/model.onnx").chmod(0o600)
    (directory / "1/link.onnx").symlink_to("model.onnx")
    return Model(name="m", description="", source={}, licence="", sha256="", size_bytes=0, directory=directory)


@pytest.mark.parametrize(
    ("keys", "ports"),
    [
        ({}, [("127.0.0.1",), ("127.0.0.1",)]),
        ({"address": "192.0.2.7:9001"}, [("192.0.2.7", "9001"), ("192.0.2.7",)]),
        ({"rest_address": "localhost:8001"}, [("127.0.0.1",), ("127.0.0.1", "8001")]),
        ({"address": "server.example:9001"}, [("0.0.0.0", "9001"), ("0.0.0.0",)]),
        ({"address": "[2001:db8::7]:9", "rest_address": "h:8"}, [("2001:db8::7", "9"), ("0.0.0.0", "8")]),
    ],
)
def test_ports_are_published_where_clients_come_and_nowhere_else(
    model: Model, keys: dict[str, str], ports: list[tuple[str, ...]]
) -> None:
    engine = {"engine": "tcp://h:2376"} if keys else {}
    given = isolation.options(server(**keys, **engine), model)["ports"]
    assert [given["9000/tcp"], given["8000/tcp"]] == ports


@pytest.mark.parametrize(("uid", "user"), [(1000, "1000:1000"), (0, "10001:10001")])
def test_the_user_is_ours_or_nobody_and_never_root(
    model: Model, monkeypatch: pytest.MonkeyPatch, uid: int, user: str
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "getgid", lambda: uid)
    assert isolation.options(server(), model)["user"] == user
    assert isolation.options(server(engine="tcp://h:1", address="h:2"), model)["user"] == "10001:10001"


def test_limits_that_the_plan_does_not_set_are_not_set(model: Model) -> None:
    keys = ("cpuset_cpus", "nano_cpus", "mem_limit", "memswap_limit")
    assert not set(keys) & set(isolation.options(server(), model))
    limited = isolation.options(server(cpus="0-1", cpu_limit=1.5, memory_mb=512), model)
    assert [limited[key] for key in keys] == ["0-1", 1_500_000_000, 512_000_000, 512_000_000]


def test_a_model_is_copied_whole_and_readable_for_anybody(model: Model) -> None:
    with isolation.archive(model) as file, tarfile.open(fileobj=file) as tar:
        found = {member.name: member for member in tar.getmembers()}
        content = tar.extractfile("m/1/link.onnx")
        assert content is not None and content.read() == b"weights"
    assert {name: (one.mode, one.uid) for name, one in found.items()} == {
        "m": (0o755, 0), "m/1": (0o755, 0), "m/1/model.onnx": (0o644, 0), "m/1/link.onnx": (0o644, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "text", "told"),
    [
        ({"cpus": "0-7"}, "Requested CPUs are not available - requested 0-7, available: 0-1", "server.cpus = 0-7"),
        ({"cpu_limit": 8}, "Range of CPUs is from 0.01 to 2.00", "server.cpu_limit = 8.0"),
        ({"memory_mb": 16}, "Minimum memory limit allowed is 64MB", "server.memory_mb = 16"),
        (
            {"engine": "tcp://h:1", "rest_address": "h:2"},
            "driver failed: Bind for 0.0.0.0:2 failed: port is already allocated",
            "server.rest_address = h:2",
        ),
        ({}, "no space left on device", 'server.launch = "docker"'),
    ],
)
def test_a_refusal_names_the_key_of_the_plan(keys: dict[str, Any], text: str, told: str) -> None:
    error = isolation.refusal(docker.errors.APIError("500 Server Error", explanation=text), server(**keys))
    assert str(error).startswith(f"{told}: ") and text in str(error)
