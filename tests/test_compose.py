"""compose.yaml on a real Docker engine, as a user who is not root: campaigns, sweeps, deaths, two platforms."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests import containers
from tests.containers import Checkout, Project
from tests.dashboard import Result, answers, ask, expressions

ROOT = Path(__file__).parent.parent
SERVICES = {"server", "haproxy", "worker", "controller", "prometheus"}
UP = ("up", "--exit-code-from", "controller")
HAPROXY_VERSION = "haproxy_process_build_info"
SHORT = "--set measure.warmup_s=1 --set measure.drain_s=2"
SWEEP = f"{SHORT} --set measure.duration_s=2 --set sweep.server.streams=[1,2]"

LACKING = containers.lacking()
pytestmark = [
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
    pytest.mark.timeout(900),  # the first test builds the images
]


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    with containers.checkout() as found:
        yield found


@pytest.fixture(scope="module")
def project(checkout: Checkout) -> Iterator[Project]:
    found = Project(checkout, containers.fresh_name())
    try:
        yield found
    finally:
        found.down("--rmi", "local")


@dataclass
class Seen:
    """What a campaign in containers showed: during the run, at its end, and after `down`."""

    code: int
    out: Path
    during: dict[str, Result]
    metrics: dict[str, Result]
    prometheus_version: str
    containers: list[dict[str, Any]]
    processes: dict[str, list[dict[str, str]]]  # /proc/PID/status of everything in each service
    left: list[str]
    run: dict[str, Any]


def only(results: Path) -> Path:
    """The directory of the newest campaign."""
    return max(results.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def read(out: Path) -> Any:
    return json.loads((out / "summary.json").read_text())


def started(project: Project, before: str | None = None) -> str:
    """When the stack's Prometheus started, which is to be another time than `before`."""
    until_s = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{project.prometheus}/api/v1/status/runtimeinfo", timeout=30) as answer:
                if (found := str(json.load(answer)["data"]["startTime"])) != before:
                    return found
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < until_s
        time.sleep(0.2)


def processes(project: Project, identity: str) -> list[dict[str, str]]:
    """Of a container, as the kernel tells of them."""
    lines = project.docker("top", identity, "-eo", "pid,comm").splitlines()[1:]
    found = []
    for pid in (line.split()[0] for line in lines):
        status = Path(f"/proc/{pid}/status")
        if status.exists():
            found.append(dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line))
    return found


@pytest.fixture(scope="module")
def seen(checkout: Checkout, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One campaign of plans/quick.toml, with the images built for it."""
    log = tmp_path_factory.mktemp("compose") / "up.log"
    command = ("up", "--build", "--exit-code-from", "controller")
    with project.up(*command, log=log, settings={"ARGS": f"{SHORT} --set measure.duration_s=10"}) as up:
        up.until("controller-1.*: measuring", timeout_s=800)
        identities = project.docker("compose", "ps", "--quiet").split()
        inspected = json.loads(project.docker("inspect", *identities))
        inside = {service(one): processes(project, one["Id"]) for one in inspected}
        during = answers(project.prometheus, lambda: up.said("controller-1.*: reconciling"))
        metrics = {name: ask(project.prometheus, name) for name in ("up", HAPROXY_VERSION)}
        with urllib.request.urlopen(f"{project.prometheus}/api/v1/status/buildinfo", timeout=30) as answer:
            version = json.load(answer)["data"]["version"]
        code = up.ended()
        assert code in (0, 4), log.read_text()
    out = only(checkout.place / "results")
    return Seen(code, out, during, metrics, version, inspected, inside, project.left(), read(out)["runs"][0])


def service(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def test_a_campaign_in_containers_ends_well_and_its_witnesses_agree(seen: Seen) -> None:
    assert seen.code == 0, seen.run["reasons"]
    assert {service(one) for one in seen.containers} == SERVICES
    witnesses = {name: witness["requests"] for name, witness in seen.run["witnesses"].items()}
    assert set(witnesses.values()) == {witnesses["client"]} and witnesses["client"] > 50
    assert (seen.out / "report.html").stat().st_size > 10_000


def test_results_are_the_user_s_and_the_user_is_not_root(seen: Seen, checkout: Checkout) -> None:
    assert checkout.user != 0
    everything = [checkout.place / "results", *(checkout.place / "results").rglob("*")]
    assert {path.stat().st_uid for path in everything} == {checkout.user}


def test_down_leaves_nothing(seen: Seen) -> None:
    assert seen.left == []


def test_every_expression_of_the_dashboard_has_data_in_the_stack_s_prometheus(seen: Seen) -> None:
    assert {name: asked for name, asked in expressions().items() if name not in seen.during} == {}
    scraped = {one["metric"]["job"]: one["value"][1] for one in seen.metrics["up"]}
    assert scraped == dict.fromkeys(("clients", "haproxy", "server"), "1")


def test_haproxy_and_prometheus_are_the_pinned_ones(seen: Seen) -> None:
    assert [one["metric"]["version"].startswith("2.6.") for one in seen.metrics[HAPROXY_VERSION]] == [True]
    assert seen.prometheus_version.startswith("2.42.")


def test_no_process_is_root_s_or_has_a_privilege(seen: Seen, checkout: Checkout) -> None:
    assert set(seen.processes) == SERVICES
    for name, inside in seen.processes.items():
        assert inside, name
        for status in inside:
            uids, gids = set(status["Uid"].split()), set(status["Gid"].split())
            assert "0" not in uids and "0" not in gids, (name, status["Name"])
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
            assert status["NoNewPrivs"] == "1"
    assert {status["Uid"].split()[0] for status in seen.processes["controller"]} == {str(checkout.user)}


def test_containers_are_read_only_and_published_on_loopback(seen: Seen) -> None:
    published = {}
    for one in seen.containers:
        host = one["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"], service(one)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert service(one) == "controller" or one["Config"]["User"] not in ("", "0", "root")
        ports = [binding for bindings in one["NetworkSettings"]["Ports"].values() for binding in bindings or ()]
        if ports:
            published[service(one)] = {binding["HostIp"] for binding in ports}
    assert published == {"server": {"127.0.0.1"}, "prometheus": {"127.0.0.1"}}


def test_a_sweep_reaches_the_server_and_who_watches_may_die(
    seen: Seen, checkout: Checkout, project: Project, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from loadproof.cli import main; main()", "run", "plans/quick.toml"]
    command += [*SWEEP.split(), "--models", str(tmp_path / "models"), "--out", str(tmp_path / "here")]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as here,
        project.up(*UP, log=tmp_path / "log", settings={"ARGS": SWEEP}) as up,
    ):
        up.until("controller-1.*: measuring")
        first = started(project)
        kill = 'set -- /proc/[0-9]*; for it; do [ "$(cat $it/comm)" = prometheus ] && kill -KILL ${it#/proc/}; done'
        project.docker("exec", project.container("prometheus"), "sh", "-c", kill, check=False)
        again = started(project, first)
        code = up.ended()
        _, errors = here.communicate(timeout=120)
    assert code == 0, (tmp_path / "log").read_text()
    assert here.returncode == 0, errors
    assert again != first
    runs = read(only(checkout.place / "results"))["runs"]
    assert sorted(run["spec"]["server"]["streams"] for run in runs) == [1, 2]
    assert [run["spec"] for run in runs] == [run["spec"] for run in read(tmp_path / "here")["runs"]]
    for run in runs:
        counts = {witness["requests"] for witness in run["witnesses"].values()}
        assert len(counts) == 1 and counts.pop() > 20


@pytest.mark.parametrize(
    ("how", "victim", "reason"),
    [
        (("kill",), "server", "server_died"),
        (("network", "disconnect", "{network}"), "server", "server_died"),
        (("kill",), "worker", "worker_died"),
    ],
    ids=["server killed", "network cut", "worker killed"],
)
def test_a_run_that_loses_a_container_ends_in_time_with_all_that_was_recorded(
    seen: Seen,
    checkout: Checkout,
    project: Project,
    tmp_path: Path,
    how: tuple[str, ...],
    victim: str,
    reason: str,
) -> None:
    log, span_s = tmp_path / "log", 60
    with project.up(*UP, log=log, settings={"ARGS": f"{SHORT} --set measure.duration_s={span_s}"}) as up:
        up.until("controller-1.*: measuring")
        time.sleep(2)
        words = [word.format(network=f"{project.name}_default") for word in how]
        project.docker(*words, project.container(victim))
        hit_s = time.monotonic()
        code = up.ended()
        took_s = time.monotonic() - hit_s
    assert code == 4, log.read_text()
    assert took_s < span_s - 5
    out = only(checkout.place / "results")
    run = read(out)["runs"][0]
    assert run["verdict"] == "INVALID"
    assert reason in [one["code"] for one in run["reasons"]], run["reasons"]
    assert run["requests"]["ok"] > 0
    (records,) = out.glob("runs/*/requests.parquet")
    assert pq.read_metadata(records).num_rows > run["requests"]["ok"]
    assert (out / "report.html").exists()
    assert project.left() == []


def cpu_set(project: Project, service: str) -> str:
    return project.docker("inspect", "--format", "{{.HostConfig.CpusetCpus}}", project.container(service)).strip()


def test_two_platforms_of_one_file(seen: Seen, checkout: Checkout, tmp_path: Path) -> None:
    """They meet on an address of this host that is neither's own; the server's platform is told its plan there."""
    (gateway,) = [one.address for one in psutil.net_if_addrs()["docker0"] if one.family == socket.AF_INET]
    cpus = {"SERVER_CPUS": "0", "CLIENT_CPUS": str(max(os.sched_getaffinity(0)))}
    settings = {"ARGS": f"{SHORT} --set measure.duration_s=2", **cpus}
    there = Project(checkout, containers.fresh_name(), SERVER_BIND=gateway, **settings)
    ports = {key: there.settings[key] for key in ("SERVER_GRPC_PORT", "SERVER_REST_PORT")}
    here = Project(checkout, containers.fresh_name(), SERVER_HOST=gateway, **settings)
    here.settings |= ports
    client = ("--profile", "client", "up", "--build", "--exit-code-from", "controller")
    try:
        with there.up("--profile", "server", "up", "--build", log=tmp_path / "server") as server:
            server.until("models-1.*serves ocr-cls")
            given = {"server": cpu_set(there, "server")}
            with here.up(*client, log=tmp_path / "client") as up:
                up.until("controller-1.*: measuring")
                given |= {name: cpu_set(here, name) for name in ("haproxy", "worker", "controller")}
                assert up.ended() == 0, (tmp_path / "client").read_text()
    finally:
        there.down("--rmi", "local")
        here.down("--rmi", "local")
    out = only(checkout.place / "results")
    run = read(out)["runs"][0]
    stack = json.loads((out / "campaign.json").read_text())["stack"]
    assert stack["server_grpc"] == f"{gateway}:{ports['SERVER_GRPC_PORT']}"
    assert (stack["server_cpus"], stack["client_cpus"]) == tuple(cpus.values())
    server_cpus = given.pop("server")
    assert server_cpus == cpus["SERVER_CPUS"] and set(given.values()) == {cpus["CLIENT_CPUS"]}
    counts = {witness["requests"] for witness in run["witnesses"].values()}
    assert len(counts) == 1 and counts.pop() > 20
    assert there.left() + here.left() == []


@pytest.mark.parametrize("profiles", ["stack", "stack,grafana", "client,grafana", "server"])
def test_every_profile_is_accepted(checkout: Checkout, project: Project, profiles: str) -> None:
    """Grafana's image is in no registry that a test may count on: this much of it is checked, and its files."""
    words = [word for profile in profiles.split(",") for word in ("--profile", profile)]
    told = json.loads(project.docker("compose", *words, "config", "--format", "json"))
    assert ("grafana" in told["services"]) == ("grafana" in profiles)
    for name, one in told["services"].items():
        assert one["read_only"] and one["cap_drop"] == ["ALL"], name
        for volume in one.get("volumes", ()):
            assert volume["type"] == "volume" or volume["target"] == "/work/results" or os.path.exists(volume["source"])
