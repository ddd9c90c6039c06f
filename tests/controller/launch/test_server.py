"""The server under test: ours is served under the model's name, another's is only found."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from loadproof import models
from loadproof.errors import LoadproofError
from loadproof.launch import server
from loadproof.plan import Server
from tests.ports import free_ports


def save_relu(path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_that_the_plan_names_by_its_path_is_served_under_its_name(tmp_path: Path) -> None:
    path = save_relu(tmp_path / "my net.onnx")
    model = models.get(str(path), tmp_path / "models")
    target = server.start(Server(model=str(path)), model, tmp_path / "log")
    assert target.party
    with target.party:
        server.wait_ready(target)
    assert target.model == "my-net"


def test_packages_of_the_user_s_in_the_working_directory_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("server", "clients", "controller"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    model = models.get(str(save_relu(tmp_path / "net.onnx")), tmp_path / "models")
    target = server.start(Server(model="net"), model, tmp_path / "log")
    assert target.party
    with target.party:
        server.wait_ready(target)


def test_an_external_server_that_is_not_there_is_told_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "EXTERNAL_TIMEOUT_S", 0.1)
    port = free_ports(1)[0]
    rest = Server(model="a model", launch="external", rest_address=f"127.0.0.1:{port}")
    grpc = Server(model="a model", launch="external", address=f"[::1]:{port}")
    for place, key in ((rest, "rest_address"), (grpc, "address")):
        with pytest.raises(LoadproofError, match=rf'^server\.{key} .*: no ready model "a model" there'):
            server.wait_ready(server.find(place))


def test_a_server_says_what_it_is(tmp_path: Path) -> None:
    model = models.get(str(save_relu(tmp_path / "net.onnx")), tmp_path / "models")
    target = server.start(Server(model="net"), model, tmp_path / "log")
    assert target.party
    with target.party:
        server.wait_ready(target)
        about = server.about(target)
    assert about is not None and about["name"] and about["version"][0].isdigit()
    assert server.about(target) is None  # it is gone
