"""What is known of the machine and the software."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from loadproof import environment


@pytest.mark.parametrize(
    ("version", "too_old"),
    [("2.2.9", True), ("1.8.0", True), ("2.4.0", False), ("2.10.1", False), ("3.0-dev4", False), (None, False)],
)
def test_versions_of_haproxy_are_compared_by_number(version: str | None, too_old: bool) -> None:
    assert environment.is_too_old(version) is too_old


def test_the_record_is_json_and_knows_this_machine() -> None:
    record = json.loads(json.dumps(environment.record()))
    assert record["threads"] >= record["usable_threads"] >= 1
    assert record["packages"]["openvino"] and record["haproxy"][0].isdigit()


def test_environment_variables_are_recorded_by_a_short_list_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("REGISTRY_PASSWORD", "precious-secret")
    record = environment.record()
    assert record["variables"]["OMP_NUM_THREADS"] == "3"
    assert set(record["variables"]) <= set(environment.VARIABLES)
    assert "precious-secret" not in json.dumps(record)


def git(directory: Path, *arguments: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    environ = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": "/dev/null"}
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout.strip()


def test_a_revision_is_the_commit_and_says_where_files_differ(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert environment.revision(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "results").mkdir()  # what is not in Git makes no change
    (tmp_path / "results/report.html").write_text("")
    assert environment.revision(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert environment.revision(tmp_path) == f"{commit} with changes"


def test_where_there_is_no_git_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.revision(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.revision(Path.cwd()) is None
