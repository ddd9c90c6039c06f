"""Directories that earlier versions wrote: every command that reads one still does, and finds the same figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from loadproof import analyse, report, rundir
from tests.controller.test_cli import loadproof

DATA = Path(__file__).parents[1] / "data"
DIRECTORIES = sorted(path.parent.relative_to(DATA) for path in DATA.glob("*/*/campaign.json"))


@pytest.fixture(params=DIRECTORIES, ids=str)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / request.param, tmp_path / "old"))


def written(directory: Path) -> Any:
    return json.loads((directory / "summary.json").read_text())


def lost_or_changed(then: Any, now: Any, place: str = "") -> list[str]:
    """Where a value of `then` is not in `now`, or another one; what only `now` has must be null."""
    if isinstance(then, dict) and isinstance(now, dict):
        new = [f"{place}.{key} is new" for key in now.keys() - then.keys() if now[key] is not None]
        lost = [f"{place}.{key} is lost" for key in then.keys() - now.keys()]
        both = [
            one for key in then.keys() & now.keys() for one in lost_or_changed(then[key], now[key], f"{place}.{key}")
        ]
        return new + lost + both
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return [one for number, pair in pairs for one in lost_or_changed(*pair, f"{place}[{number}]")]
    return [] if then == now else [f"{place}: {then} is now {now}"]


def test_there_are_a_run_a_sweep_and_a_search_of_each_version() -> None:
    for version in {path.parts[0] for path in DIRECTORIES}:
        assert {path.name for path in DIRECTORIES if path.parts[0] == version} == {"run", "sweep", "search"}


def test_an_old_summary_is_read_as_it_was_written(old: Path) -> None:
    summary = analyse.read(old)
    assert summary is not None and lost_or_changed(written(old), summary.model_dump(mode="json")) == []


def test_an_old_directory_is_analysed_to_the_same_figures(old: Path) -> None:
    then = written(old)
    analyse.campaign(old)
    assert lost_or_changed(then, written(old)) == []


def test_columns_that_it_lacks_are_null(old: Path) -> None:
    for run in (old / "runs").iterdir():
        requests = rundir.read_requests(run)
        assert requests.num_rows > 100
        assert requests["first_byte_ns"].null_count == requests.num_rows


def test_it_is_rendered_from_its_summary_and_without_one(old: Path) -> None:
    report.render(old)
    pages = [(old / name).read_bytes() for name in ("report.html", "report.md")]
    assert b"loadproof 0.1.0" in pages[0] and b"KServe v2, gRPC" in pages[0]
    (old / "summary.json").unlink()
    done = loadproof("report", str(old))
    assert done.returncode == 0 and "report: " in done.stdout, done.stderr
    assert [(old / name).read_bytes() for name in ("report.html", "report.md")] == pages


def test_it_is_compared(old: Path) -> None:
    done = loadproof("compare", str(old), str(old), "--markdown", str(old / "compared.md"))
    assert done.returncode == 0 and "no evidence" in done.stdout, done.stderr
    assert "no evidence" in (old / "compared.md").read_text()


def test_all_of_them_have_a_history_together(tmp_path: Path) -> None:
    for number, path in enumerate(DIRECTORIES):
        shutil.copytree(DATA / path, tmp_path / str(number))
    done = loadproof("history", str(tmp_path), "--metric", "p50_ms")
    assert done.returncode == 0 and "left out" not in done.stderr, done.stderr
    assert all(name in done.stdout for name in ("quick", "clients=2", "rate_rps=60"))


def test_it_is_not_resumed_and_its_version_is_named(old: Path) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    done = loadproof("run", "--resume", str(old))
    assert done.returncode == 2 and "Loadproof 0.1.0 wrote it" in " ".join(done.stderr.split()), done.stderr
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
