"""The wheel, installed outside the checkout: it runs a campaign, claims no generic name, and heeds no user's folder."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
OURS: Final = {"loadproof", "loadproof_clients", "loadproof_server"}
GENERIC: Final = ("server", "clients", "controller", "haproxy", "prometheus", "grafana")
PLAN: Final = """
name = "wheel"
[server]
model = "ocr-cls"
[load]
clients = 2
payloads = 4
shapes = {x = [1, 3, 48, 192]}
[measure]
warmup_s = 0.5
duration_s = 1
drain_s = 2
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", str(place), str(ROOT)], check=True, timeout=300)
    (found,) = place.glob("loadproof-*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh environment with the wheel; its dependencies are those of this environment, but not Loadproof itself."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    packages = place / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(place), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True, timeout=300)
    yield place / "bin/python"


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


def test_the_wheel_has_our_packages_and_the_files_that_they_read(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == OURS
    shipped = {name.removeprefix("loadproof/shipped/") for name in names if name.startswith("loadproof/shipped/")}
    assert shipped >= {"haproxy/haproxy.cfg", "prometheus/prometheus.yml", "grafana/dashboards/loadproof.json"}


@pytest.mark.parametrize("name", GENERIC)
def test_no_generic_name_is_taken(python: Path, name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [python, "-c", f"import {name}"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert f"No module named '{name}'" in done.stderr


def test_files_that_are_not_code_are_found_in_the_wheel_and_in_the_checkout(python: Path, tmp_path: Path) -> None:
    program = "from loadproof import shipped; print(shipped.path('haproxy/haproxy.cfg'), shipped.CHECKOUT)"
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    path, checkout = done.stdout.split()
    assert path.endswith("/loadproof/shipped/haproxy/haproxy.cfg") and checkout == "None"
    assert Path(path).read_bytes() == (ROOT / "haproxy/haproxy.cfg").read_bytes()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(ROOT / "haproxy/haproxy.cfg"), str(ROOT)]


def test_the_installed_wheel_runs_a_plan_beside_folders_of_the_users_own(python: Path, tmp_path: Path) -> None:
    for name in (*GENERIC, "loadproof_clients_of_mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the user\\'s own folder was imported')\n")
    plan = tmp_path / "plans" / "mine.toml"
    plan.parent.mkdir()
    plan.write_text(PLAN)
    command = [str(python.with_name("loadproof")), "run", str(plan), "--out", str(tmp_path / "out")]
    command += ["--models", str(tmp_path / "models")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(PYTHONPATH="."), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "out" / "campaign.json").read_text())
    assert facts["environment"]["loadproof_revision"] is None
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["runs"][0]["requests"]["ok"] > 0
