"""A campaign with a worker from elsewhere, over IPv6, while a stranger speaks to its master; tokens and addresses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil
import pytest
import typer

from loadproof import models
from loadproof.commands.options import host_port
from loadproof.errors import LoadproofError, PlanError
from loadproof.launch.endpoints import Endpoints
from tests.ports import free_ports

ROOT: Final = Path(__file__).parent.parent
LOADPROOF: Final = Path(sys.executable).with_name("loadproof")
SHORT: Final = ["--set", "measure.warmup_s=0.5", "--set", "measure.duration_s=4", "--set", "measure.drain_s=2"]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "LOADPROOF_TOKEN"}


def test_who_has_the_printed_token_joins_over_ipv6_and_a_stranger_changes_nothing(tmp_path: Path) -> None:
    models.get("ocr-cls", tmp_path / "models")
    where = f"[::1]:{free_ports(1, '::1')[0]}"
    command = [
        str(LOADPROOF),
        "run",
        "plans/quick.toml",
        "--models",
        str(tmp_path / "models"),
        "--listen",
        where,
        *SHORT,
    ]
    command += ["--out", str(tmp_path / "out"), "--set", "load.processes=2", "--set", "load.expect_workers=1"]
    stranger = [sys.executable, "-m", "tests.clients.stranger", "--host", "::1", "--port", where.rpartition(":")[2]]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as controller:
        assert controller.stderr is not None
        said = ""
        for line in controller.stderr:
            said += line
            if found := re.search(r"LOADPROOF_TOKEN=(\w+) loadproof worker --master \[::1\]:\d+$", line.rstrip()):
                joining = found[0].replace("loadproof worker", f"exec {LOADPROOF} worker")
                worker = subprocess.Popen(["sh", "-c", joining], env=environment(), stderr=subprocess.PIPE, text=True)
                token = found[1]
            if "measuring" in line:
                subprocess.run(
                    stranger, input="", cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60, text=True
                )
                family = psutil.Process(controller.pid).children(recursive=True)
                shown = [text for one in family for text in (*one.cmdline(), *one.environ().values())]
        assert controller.wait(60) == 0, said
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    [run] = json.loads((tmp_path / "out/summary.json").read_text())["runs"]
    assert run["verdict"] in ("VALID", "FLAGGED"), run["reasons"]  # strangers are another load on this machine
    assert len({seen["requests"] for seen in run["witnesses"].values()}) == 1
    assert any(
        re.fullmatch(r"The master dropped \d+ messages that did not come from its workers\.", note)
        for note in run["notes"]
    )
    assert len(token) == 64 and any("loadproof_clients.load.master" in text for text in shown)
    assert not [text for text in shown if token in text]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 8 and not [path for path in files if token.encode() in path.read_bytes()]


def test_each_campaign_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOADPROOF_TOKEN", raising=False)
    one, other = Endpoints(), Endpoints()
    assert one.token != other.token and len(one.token) == 64
    assert one.token not in repr(one)


def test_a_token_of_the_users_own_is_taken_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADPROOF_TOKEN", "sixteen letters.")
    endpoints = Endpoints("192.0.2.7", 5557)
    assert endpoints.token == "sixteen letters."
    assert endpoints.invitation == "LOADPROOF_TOKEN=$LOADPROOF_TOKEN loadproof worker --master 192.0.2.7:5557"
    monkeypatch.setenv("LOADPROOF_TOKEN", "too short")
    with pytest.raises(PlanError):
        Endpoints()


def test_the_token_file_is_the_users_alone_and_that_of_the_last_campaign(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for _ in range(2):
        endpoints = Endpoints(token_file=path)
        endpoints.write_token()
        assert path.read_text() == f"{endpoints.token}\n" and path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(LoadproofError, match="token cannot be written"):
        Endpoints(token_file=tmp_path / "none" / "token").write_token()


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("[::1]:5557", ("::1", 5557)),
        ("[2001:db8::7]:1", ("2001:db8::7", 1)),
        ("load-1.example:5557", ("load-1.example", 5557)),
        ("192.0.2.7:65535", ("192.0.2.7", 65535)),
    ],
)
def test_a_host_is_a_name_or_an_address_of_either_kind(address: str, parts: tuple[str, int]) -> None:
    assert host_port(address, "--listen") == parts


@pytest.mark.parametrize("address", ["::1:5557", "[::1]", "[name]:5557", ":5557", "h:0", "h:65536", "a b:1", "[]:1"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(typer.BadParameter, match="allowed: HOST:PORT"):
        host_port(address, "--listen")


@pytest.mark.parametrize("master", ["[::1]:5999", "[::1]", "localhost:5999", "127.0.0.1"])
def test_a_worker_without_a_token_is_refused_wherever_its_master_is(master: str) -> None:
    command = [str(LOADPROOF), "worker", "--master", master]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "loadproof: a worker needs the campaign's token\n  set LOADPROOF_TOKEN" in done.stderr
