"""The layout is the architecture: who may import what, how long files and functions may be, and what modules say.

A package's modules and sub-packages are its rooms, and they stand in an order: a module imports its own room and lower
ones. No modules import each other in a circle. Imports within functions and under TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("server/loadproof_server", "clients/loadproof_clients", "controller/loadproof", "benchmarks")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ORDER = {  # of each package the rooms, lowest first
    "loadproof_server": (
        *("errors", "tensors", "engine", "dataplane", "repository", "connections", "kserve", "flags"),
        *("workers", "main", "worker_main"),
    ),
    "loadproof_clients": (
        *(
            "records",
            "kernel",
            "tensors",
            "apis",
            "spec",
            "schedule",
            "spool",
            "null_server",
            "transport",
            "payloads",
            "wire",
        ),
        *("kserve", "transports", "load", "audit", "prepare"),
    ),
    "loadproof": (
        *("errors", "escapes", "lock", "shipped", "hardware", "environment", "sections", "plan", "facts", "rundir"),
        *("analyse", "report", "compare"),
        *("models", "reference", "collect", "launch", "calibration", "progress", "run", "campaign", "doctor"),
        *("commands", "cli"),
    ),
}
Graph = Mapping[str, Iterable[str]]  # of each module, the modules that it imports
OFFLINE = {"analyse", "compare", "report", "rundir.py"}
# What the controller may import of the clients: plain data, and the reader of the kernel.
CLIENTS_DATA = tuple(f"loadproof_clients.{room}" for room in ("apis", "kernel", "records", "spec", "tensors"))
ONLINE_LIBRARIES = {"locust", "gevent", "grpc", "tritonclient", "openvino", "docker"}


def imports(path: Path) -> Iterator[str]:
    """The absolute names that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts[1:]).removesuffix(".__init__")


def import_graph(package: str) -> Graph:
    """Which modules of the package import which others; a name that a module or an `__init__` defines is that module's.

    `import a.b` runs `a/__init__.py` too, but counts as an import of `a.b` alone.
    """
    paths = {module_name(path): path for path in MODULES if path.parts[1] == package}
    found = {module: {module_of(name, paths) for name in imports(path)} for module, path in paths.items()}
    return {module: sorted(imported - {"", module}) for module, imported in found.items()}


def module_of(name: str, modules: Iterable[str]) -> str:
    """The module that an imported name stands for or stands in; empty where it is none of `modules`."""
    return max((module for module in modules if within(name, module)), key=len, default="")


def circle(graph: Graph) -> list[str]:
    """Modules of which each imports the next one, the first again at the end; empty where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def out_of_order(graph: Graph, order: Sequence[str]) -> list[str]:
    """Modules whose room is not in `order`, and imports of a room by a lower one; the package itself is the lowest."""
    heights = {room: height for height, room in enumerate(["", *order])}
    rooms = {module: [*module.split("."), ""][1] for module in graph}
    homeless = [module for module, room in rooms.items() if room not in heights]
    if homeless:
        return [f"{module} belongs to no room of the order" for module in homeless]
    return [
        f"{module} imports {imported}, which is above it"
        for module, names in graph.items()
        for imported in names
        if heights[rooms[imported]] > heights[rooms[module]]
    ]


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
            or (top == "loadproof_server" and not within(name, "loadproof_server.dataplane.metric_names"))
        )
    return False


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_what_its_place_allows(path: Path) -> None:
    assert [name for name in imports(path) if forbidden(path, name)] == []


@pytest.mark.parametrize("package", sorted(ORDER))
def test_rooms_import_only_lower_rooms(package: str) -> None:
    found = out_of_order(import_graph(package), ORDER[package])
    assert not found, "; ".join(found)


@pytest.mark.parametrize("package", sorted(ORDER))
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    found = circle(import_graph(package))
    assert not found, " imports ".join(found)


def test_a_circle_is_found() -> None:
    assert circle({"p.a": ["p.b"], "p.b": ["p.c"], "p.c": []}) == []
    found = circle({"p.a": ["p.b"], "p.b": ["p.c"], "p.c": ["p.a"], "p.d": ["p.a"]})
    assert len(found) == 4
    assert all(step in ("p.a p.b", "p.b p.c", "p.c p.a") for step in map(" ".join, pairwise(found)))


def test_a_wrong_order_is_found() -> None:
    graph = {"p": [], "p.low": ["p"], "p.high": ["p.low"], "p.high.part": ["p.high", "p.low"]}
    assert out_of_order(graph, ["low", "high"]) == []
    assert out_of_order(graph, ["high", "low"]) == [
        "p.high imports p.low, which is above it",
        "p.high.part imports p.low, which is above it",
    ]
    assert out_of_order({**graph, "p": ["p.low"]}, ["low", "high"]) == ["p imports p.low, which is above it"]
    assert out_of_order(graph, ["low"]) == [
        "p.high belongs to no room of the order",
        "p.high.part belongs to no room of the order",
    ]


def test_imports_count_wherever_they_stand(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "import p.a.b\nfrom p import c as d\nif TYPE_CHECKING:\n    from p.e import F\n"
        "def function():\n    from p.g import h\n"
    )
    assert list(imports(module)) == ["p.a.b", "p.c", "p.e.F", "p.g.h"]
    modules = ["p", "p.a", "p.a.b", "p.c", "p.e", "p.ee"]
    assert [module_of(name, modules) for name in imports(module)] == ["p.a.b", "p.c", "p.e", "p"]
    assert module_of("numpy.array", modules) == ""


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
