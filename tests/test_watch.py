"""Watching a campaign: a real Prometheus beside real runs, and every expression of Grafana's dashboard asked of it."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.dashboard import ANNOTATIONS, DASHBOARD, PANELS, TARGETS, VARIABLES, Result, answers, ask, expressions

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from loadproof.cli import main; main()"]


@dataclass
class Watched:
    """What a campaign of two runs showed while it ran."""

    address: str
    page: str = ""
    during: dict[str, Result] = field(default_factory=dict)  # in the first run, by expression
    between: dict[str, Result] = field(default_factory=dict)  # when it had ended
    up: Result = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    code: int | None = None
    left: list[Path] = field(default_factory=list)

    def ask(self, expression: str) -> Result:
        return ask(self.address, expression)


COUNTS = {  # at the end of the first run, when the second one has not begun
    "ok": 'max_over_time(loadproof_client_requests_total{phase="measure",outcome="ok"}[10m])',
    "client": "sum(max_over_time(loadproof_client_requests_total[10m]))",
    "histogram": "sum(max_over_time(loadproof_client_latency_seconds_count[10m]))",
    "balancer": 'sum(max_over_time(haproxy_backend_http_responses_total{proxy="grpc_infer",code="2xx"}[10m]))',
    "server": 'sum(max_over_time(ovms_requests_success{method="ModelInfer"}[10m]))',
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A campaign of two runs with --watch; in the second one its Prometheus is killed."""
    place = tmp_path_factory.mktemp("watch")
    (place / "tmp").mkdir()
    command = [
        *COMMAND,
        "run",
        "plans/quick.toml",
        "--watch",
        "--out",
        str(place / "out"),
        "--models",
        str(place / "m"),
    ]
    for setting in ("measure.repeats=2", "measure.warmup_s=1", "measure.duration_s=8", "measure.drain_s=2"):
        command += ["--set", setting]
    environment = {**os.environ, "TMPDIR": str(place / "tmp")}
    with (
        (place / "stderr").open("w") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, env=environment, text=True) as process,
    ):
        seen = Watched(until(process, place, r"watch: (http://127\.0\.0\.1:\d+)/user/\n"))
        with urllib.request.urlopen(f"{seen.address}/user/", timeout=30) as answer:
            seen.page = answer.read().decode()
        until(process, place, "run 1/2 .*: measuring")
        seen.during = answers(
            seen.address, lambda: bool(re.search("run 1/2 .*: reconciling", (place / "stderr").read_text()))
        )
        seen.up = seen.ask("up")
        until(process, place, "run 2/2 .*: starting the balancer")  # nothing was asked of the second server yet
        seen.between = {name: seen.ask(expression) for name, expression in COUNTS.items()}
        until(process, place, "run 2/2 .*: measuring")
        children = psutil.Process(process.pid).children(recursive=True)
        next(child for child in children if child.name() == "prometheus").kill()
        process.communicate(timeout=120)
    seen.code = process.returncode
    assert seen.code == 0, (place / "stderr").read_text()
    seen.summary = json.loads((place / "out/summary.json").read_text())
    seen.left = list((place / "tmp").iterdir())
    assert not [child for child in psutil.Process().children(recursive=True) if child.name() == "prometheus"]
    yield seen


def until(process: subprocess.Popen[str], place: Path, pattern: str) -> str:
    """Waits until the campaign has said so; the first group, if any."""
    while True:
        said = (place / "stderr").read_text()
        if found := re.search(pattern, said):
            return found.group(found.re.groups)
        assert process.poll() is None, said
        time.sleep(0.1)


@pytest.mark.parametrize("name", expressions())
def test_every_expression_of_the_dashboard_has_data_during_a_run(watched: Watched, name: str) -> None:
    assert watched.during.get(name), expressions()[name]


def test_all_three_witnesses_are_scraped(watched: Watched) -> None:
    assert {series["metric"]["job"]: series["value"][1] for series in watched.up} == dict.fromkeys(
        ("clients", "haproxy", "server"), "1"
    )


def test_what_prometheus_saw_last_of_a_run_is_what_its_summary_says(watched: Watched) -> None:
    run = watched.summary["runs"][0]
    assert run["verdict"] != "INVALID" and run["requests"]["ok"] > 50
    counts = {name: int(float(result[0]["value"][1])) for name, result in watched.between.items()}
    witnesses = {name: witness["requests"] for name, witness in run["witnesses"].items()}
    of_load = witnesses["client"] - run["audit"]["fresh"] - run["audit"]["repeated"]  # the audit is before the load
    assert counts == {**witnesses, "ok": run["requests"]["ok"], "histogram": of_load, "client": of_load}


def test_a_run_whose_prometheus_died_is_as_good_as_another(watched: Watched) -> None:
    assert [run["requests"]["unaccounted"] for run in watched.summary["runs"]] == [0, 0]
    assert watched.summary["runs"][1]["verdict"] != "INVALID"


def test_prometheus_leaves_nothing(watched: Watched) -> None:
    assert watched.left == []


def test_the_first_page_leads_to_graphs_of_the_dashboard(watched: Watched) -> None:
    url = html.unescape(re.search('url=([^"]+)"', watched.page)[1])  # type: ignore[index]
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    asked_there = [value for key, value in query.items() if key.endswith(".expr")]
    first = [panel["targets"][0]["expr"] for panel in PANELS if panel["type"] == "timeseries"]
    assert len(asked_there) == len(first) > 5
    assert asked_there == [one.replace("$__rate_interval", "5s").replace("$model", ".*") for one in first]


def test_prometheus_accepts_the_configuration_and_its_targets() -> None:
    checked = subprocess.run(
        ["promtool", "check", "config", "prometheus/prometheus.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "SUCCESS" in checked.stdout and "WARNING" not in checked.stdout + checked.stderr


def test_the_dashboard_is_one_that_grafana_provisions() -> None:
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["uid"] and DASHBOARD["title"]
    assert "id" not in DASHBOARD or DASHBOARD["id"] is None  # else Grafana updates what is not there
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
    assert int(DASHBOARD["refresh"].removesuffix("s")) >= 5  # Grafana's default minimum; it refuses a quicker one


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    provisioned = (ROOT / "grafana/provisioning/datasources/prometheus.yml").read_text()
    uid = re.search(r"^ +uid: (\w+)$", provisioned, re.MULTILINE)[1]  # type: ignore[index]
    sources = [part["datasource"] for part in (*PANELS, *ANNOTATIONS, *VARIABLES, *(target for _, target in TARGETS))]
    assert sources and all(source == {"type": "prometheus", "uid": uid} for source in sources)


def test_panels_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells


def test_without_prometheus_there_is_one_line_with_the_cure(tmp_path: Path) -> None:
    program = "from loadproof import environment; environment.prometheus_program = lambda: None\n"
    program += "from loadproof.cli import main; main()"
    command = [sys.executable, "-c", program, "run", "plans/quick.toml", "--watch", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == "error: --watch: Prometheus is not installed; apt-get install prometheus, or leave out --watch\n"
    )
    assert not (tmp_path / "out").exists()
