"""Several machines: a network that takes time, a worker whose clock is off, and what comes of a run that loses one."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import pytest

from tests.machines import AHEAD_S, DELAY_MS, MASTER, RELAYED, SERVER, Machines, lacking, python_of

CANNOT: Final = lacking()
pytestmark = pytest.mark.skipif(CANNOT is not None, reason=f"SEVERAL MACHINES ARE NOT TESTED: {CANNOT}")

PORT: Final = 5557
SERVICE_MS: Final = 3
REFERENCES: Final = 32 + 64  # and the audit's
PLAN: Final = f"""
name = "machines"
[server]
launch = "external"
model = "double"
address = "{RELAYED}:9000"
rest_address = "{RELAYED}:8000"
[load]
processes = 2
expect_workers = 1
"""
CLOSED: Final = """
clients = 4
[measure]
warmup_s = 0.5
duration_s = 3
[sweep]
"load.protocol" = ["grpc", "rest"]
"""
OPEN: Final = """
protocol = "{protocol}"
clients = 4
arrivals = "constant"
rate_rps = 80
timeout_s = 2
[measure]
warmup_s = 0.5
duration_s = 4
drain_s = 2
"""


@dataclass
class Campaign:
    """One campaign over the machines of `place`: started when it is made, in `finish` over."""

    machines: Machines
    place: Path
    plan: str

    def __post_init__(self) -> None:
        (self.place / "plan.toml").write_text(PLAN + self.plan)
        log = str(self.place / "visits")
        server = ["-m", "tests.truth_server", "--host", SERVER, "--port", "9000", "--rest-port", "8000", "--log", log]
        routes = [f"{RELAYED}:{port}={SERVER}:{port}" for port in (9000, 8000)]
        for host, command in (
            ("server", [*server, "--delay-ms", str(SERVICE_MS)]),
            ("relay", ["-m", "tests.relay", "--delay-ms", str(DELAY_MS), *routes]),
        ):
            process = self.machines.start(host, host, *command)
            assert process.stdout is not None and process.stdout.readline(), self.machines.said(host)
        loadproof = ["-c", "from loadproof.cli import main; main()"]
        where = f"{MASTER}:{PORT}"
        worker = [*loadproof, "worker", "--master", where, "--wait", "20"]
        self.worker = self.machines.start("worker", "worker", *worker, elsewhere=True)
        run = [*loadproof, "run", str(self.place / "plan.toml"), "--out", str(self.place / "out"), "--listen", where]
        self.controller = self.machines.start("client", "controller", *run)

    def until(self, text: str) -> None:
        """The controller has said so."""
        until_s = time.monotonic() + 60
        while text not in self.said:
            assert self.controller.poll() is None and time.monotonic() < until_s, self.said
            time.sleep(0.05)

    @property
    def said(self) -> str:
        return self.machines.said("controller")

    def finish(self) -> int:
        self.output, _ = self.controller.communicate(timeout=120)
        return self.controller.returncode

    @property
    def runs(self) -> list[dict[str, Any]]:
        return list(json.loads((self.place / "out/summary.json").read_text())["runs"])

    def facts(self, run: dict[str, Any]) -> dict[str, Any]:
        return dict(json.loads((self.place / "out" / run["directory"] / "run.json").read_text()))

    def rows(self, run: dict[str, Any], table: str) -> list[dict[str, Any]]:
        return list(pq.read_table(self.place / "out" / run["directory"] / f"{table}.parquet").to_pylist())

    def visits(self) -> dict[str, dict[str, Any]]:
        """What the server logged, by id; its clock is the controller's."""
        return {visit["id"]: visit for visit in map(json.loads, (self.place / "visits").read_text().splitlines())}


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """A run over gRPC and one over REST, half of each by the worker whose clock is ahead; nothing goes wrong."""
    place = tmp_path_factory.mktemp("two-hosts")
    with Machines(place) as machines:
        campaign = Campaign(machines, place, CLOSED)
        assert campaign.finish() == 0, campaign.said
        yield campaign


def test_client_and_balancer_see_the_round_trip_the_server_does_not_and_it_is_the_networks(
    two_hosts: Campaign,
) -> None:
    for run in two_hosts.runs:
        mean_ms = {name: witness["latency_ms"]["mean"] for name, witness in run["witnesses"].items()}
        assert mean_ms["client"] >= mean_ms["balancer"] >= mean_ms["server"] + 2 * DELAY_MS
        assert mean_ms["server"] >= SERVICE_MS
        parts = run["breakdown_ms"]
        assert sum(parts.values()) == pytest.approx(mean_ms["client"])
        assert max(parts, key=parts.__getitem__) == "balancer_network"
        assert parts["balancer_network"] >= 2 * DELAY_MS
        assert run["reconcile"]["differences"] == []


def test_the_clock_of_a_worker_from_elsewhere_is_found_within_its_bound(two_hosts: Campaign) -> None:
    for run in two_hosts.runs:
        here, elsewhere = sorted(two_hosts.facts(run)["workers"], key=lambda worker: int(worker["offset_ns"]))
        assert (here["offset_ns"], here["offset_bound_ns"], here["drift_ns"]) == (0, 0, 0)
        assert abs(elsewhere["offset_ns"] - AHEAD_S * 10**9) <= elsewhere["offset_bound_ns"] < DELAY_MS * 10**6
        assert abs(elsewhere["drift_ns"]) <= 2 * elsewhere["offset_bound_ns"]  # it is one clock, only ahead
        assert run["generator"]["clock_bound_ms_max"] == elsewhere["offset_bound_ns"] / 1e6
        assert any("1 of 2 workers read another clock" in note for note in run["notes"])


def test_every_request_is_joined_and_stands_where_the_server_saw_it(two_hosts: Campaign) -> None:
    """On the common scale, whichever clock its worker reads: client around balancer around server."""
    visits = two_hosts.visits()
    for run in two_hosts.runs:
        facts = two_hosts.facts(run)
        bounds_ns = {worker["worker"]: worker["offset_bound_ns"] for worker in facts["workers"]}
        balancer = {row["id"]: row for row in two_hosts.rows(run, "balancer")}
        requests = two_hosts.rows(run, "requests")
        assert balancer.keys() == {row["id"] for row in requests} <= visits.keys()
        first_ns: dict[int, int] = {}
        for row in requests:
            if row["phase"] in ("reference", "audit"):
                continue
            worker, bound_ns = row["worker"], bounds_ns[row["worker"]]
            first_ns[worker] = min(first_ns.get(worker, row["sent_ns"]), row["sent_ns"])
            visit, line = visits[row["id"]], balancer[row["id"]]
            seen = [visit[key] - facts["t0_monotonic_ns"] for key in ("arrived_ns", "left_ns")]
            assert row["sent_ns"] - bound_ns <= seen[0] <= seen[1] <= row["received_ns"] + bound_ns
            wall_ns = [(line[key] - facts["t0_epoch_us"]) * 1000 for key in ("accepted_us", "end_us")]
            coarse_ns = 2_000_000  # HAProxy stamps the wake-up of its loop, in whole microseconds of a slewed clock
            assert row["sent_ns"] - bound_ns - coarse_ns <= wall_ns[0] <= seen[0] + coarse_ns
            assert seen[1] - coarse_ns <= wall_ns[1] <= row["received_ns"] + bound_ns + coarse_ns
        assert first_ns.keys() == {1, 2} and all(0 <= first < 0.4e9 for first in first_ns.values())


def test_a_worker_serves_all_runs_of_a_campaign_and_leaves_with_it(two_hosts: Campaign) -> None:
    assert len(two_hosts.runs) == 2
    assert all(worker["complete"] for run in two_hosts.runs for worker in two_hosts.facts(run)["workers"])
    assert two_hosts.worker.wait(timeout=30) == 0, two_hosts.machines.said("worker")
    assert two_hosts.machines.running("client") == two_hosts.machines.running("worker") == []


HARMS: Final[dict[str, tuple[str, Callable[[Campaign], object]]]] = {
    "the network to a worker is cut": ("grpc", lambda campaign: campaign.machines.cut("client", "worker")),
    "a worker is killed": ("rest", lambda campaign: python_of(campaign.worker).kill()),
    "the network to the server is cut": ("grpc", lambda campaign: campaign.machines.cut("server", "relay")),
}


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Campaign, float]]]:
    """A campaign on machines of its own for each of HARMS, which comes in the middle of its window; side by side."""
    with contextlib.ExitStack() as stack:
        begun = {}
        for harm, (protocol, _) in HARMS.items():
            place = tmp_path_factory.mktemp(harm.replace(" ", "-"))
            begun[harm] = Campaign(stack.enter_context(Machines(place)), place, OPEN.format(protocol=protocol))
        for harm, campaign in begun.items():
            campaign.until("measuring")
            time.sleep(0.5)
            HARMS[harm][1](campaign)
        since_s = time.monotonic()
        found = {}
        for harm, campaign in begun.items():
            assert campaign.finish() == 4, campaign.said
            found[harm] = (campaign, time.monotonic() - since_s)
        yield found


@pytest.mark.parametrize("harm", HARMS)
def test_a_run_that_loses_a_machine_ends_in_time_invalid_with_all_that_was_recorded(
    harmed: dict[str, tuple[Campaign, float]], harm: str
) -> None:
    campaign, took_s = harmed[harm]
    [run] = campaign.runs
    reasons = {reason["code"]: reason["message"] for reason in run["reasons"] if reason["severity"] == "INVALID"}
    assert run["verdict"] == "INVALID" and took_s < 45
    counts = {account["name"]: account["count"] for account in run["accounts"]}
    assert sum(counts.values()) == round(80 * 4.5) + REFERENCES
    assert not counts.keys() & {"unaccounted", "not ours", "not in the log"}
    workers = {worker["worker"]: worker for worker in campaign.facts(run)["workers"]}
    complete = {number for number, worker in workers.items() if worker["complete"]}
    if harm == "the network to the server is cut":
        assert reasons.keys() <= {"failed_answers", "witnesses_disagree"} and "timeout" in reasons["failed_answers"]
        assert complete == {1, 2}
    else:
        assert re.search(r"worker \d \(pid 1 on .*\) was not heard of for 10 s", reasons["worker_died"])
        assert len(complete) == 1 and counts["not sent: the run ended early"] > 0
    saved = {row["id"]: row for row in campaign.rows(run, "requests")}
    for number in {1, 2} - complete:
        [cut_off] = [one for one in workers.values() if one["worker"] == number]
        assert cut_off["records"] > 0 and cut_off["drift_ns"] is None
        assert cut_off["offset_bound_ns"] > cut_off["round_trip_ns"] / 2
    assert sum(worker["records"] for worker in workers.values()) == len(saved) - REFERENCES
    assert (campaign.place / "out/report.html").exists()


@pytest.mark.parametrize("harm", HARMS)
def test_nothing_of_it_is_left_behind(harmed: dict[str, tuple[Campaign, float]], harm: str) -> None:
    """A worker that was cut off notices, keeps what it could not deliver, and leaves when no other run comes."""
    campaign, _ = harmed[harm]
    code = campaign.worker.wait(timeout=90)
    said = campaign.machines.said("worker")
    assert campaign.machines.running("client") == campaign.machines.running("worker") == []
    if harm == "the network to a worker is cut":
        assert code == 0 and "the master left before it had every record: the rest is in " in said, said
