"""The layout is the architecture: who may import what, how long files and functions may be, and what modules say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("server/loadproof_server", "clients/loadproof_clients", "controller/loadproof", "benchmarks")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OFFLINE = {"analyse", "compare", "report", "rundir.py"}
# What the controller may import of the clients: plain data.
CLIENTS_DATA = tuple(f"loadproof_clients.{room}" for room in ("apis", "records", "spec", "tensors"))
ONLINE_LIBRARIES = {"locust", "gevent", "grpc", "tritonclient", "openvino", "docker"}


def imports(path: Path) -> Iterator[str]:
    """The absolute names that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def forbidden(path: Path, name: str) -> bool:
    place, room = [*path.parts, ""][1:3]
    top = name.split(".")[0]
    if top == "docker" and (place, room) != ("loadproof", "launch"):
        return True
    if place == "loadproof_server":
        return top in ("loadproof_clients", "loadproof") or (top == "openvino" and room != "engine")
    if place == "loadproof_clients":
        if (top == "locust" and room != "load") or (top == "gevent" and room not in ("load", "wire", "kserve")):
            return True
        return top in ("loadproof_server", "loadproof", "openvino")
    if place == "loadproof":
        if top == "openvino":
            return room not in ("models", "reference.py")
        if room in OFFLINE and top in ONLINE_LIBRARIES:
            return True
        return (
            top in ("locust", "gevent")
            or (top == "loadproof_clients" and not within(name, *CLIENTS_DATA))
            or (top == "loadproof_server" and not within(name, "loadproof_server.metric_names"))
        )
    return False


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_what_its_place_allows(path: Path) -> None:
    assert [name for name in imports(path) if forbidden(path, name)] == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_says_what_it_is_for_and_stays_readable(path: Path) -> None:
    text = (ROOT / path).read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path}: a sentence says what the module is for"
    assert len(text.splitlines()) <= 400, f"{path}: a file has at most 400 lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= 70, f"{path}: {node.name} has {length} lines; a function has at most 70"


def test_every_package_has_modules_to_judge() -> None:
    assert {path.parts[1] for path in MODULES} >= {"loadproof_server", "loadproof_clients", "loadproof"}


def test_nothing_is_called_utils() -> None:
    bad = {"utils", "util", "common", "helpers", "misc"}
    assert [path for path in MODULES if bad & set(path.with_suffix("").parts)] == []
