"""The server under test: it is served under the model's name, and says what it is."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from loadproof import models
from loadproof.launch import server
from loadproof.plan import Server
from loadproof_clients.apis import APIS

KSERVE = APIS["kserve"]


def save_relu(path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_that_the_plan_names_by_its_path_is_served_under_its_name(tmp_path: Path) -> None:
    path = save_relu(tmp_path / "my net.onnx")
    model = models.get(str(path), tmp_path / "models")
    target = server.start(Server(model=str(path)), model, KSERVE, tmp_path / "log")
    assert target.component
    with target.component:
        target.wait_ready()
    assert target.model == "my-net"


def test_packages_of_the_user_s_in_the_working_directory_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("server", "clients", "controller"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    model = models.get(str(save_relu(tmp_path / "net.onnx")), tmp_path / "models")
    target = server.start(Server(model="net"), model, KSERVE, tmp_path / "log")
    assert target.component
    with target.component:
        target.wait_ready()


def test_a_server_says_what_it_is(tmp_path: Path) -> None:
    model = models.get(str(save_relu(tmp_path / "net.onnx")), tmp_path / "models")
    target = server.start(Server(model="net"), model, KSERVE, tmp_path / "log")
    assert target.component
    with target.component:
        target.wait_ready()
        about = target.about()
    assert about is not None and about["name"] and about["version"][0].isdigit()
    assert target.about() is None  # it is gone
