"""What balancer and server say of a run, and where the time went between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from loadproof import rundir
from loadproof.analyse import statistics, witnesses
from loadproof.analyse.population import Records, Window
from loadproof.analyse.schema import Witness, Witnesses
from loadproof_clients.records import UNSENT
from tests.controller import synthetic
from tests.controller.summaries import run_summary
from tests.controller.synthetic import Change

WINDOW = Window.of(2, 10)


def observed(directory: Path, change: Change | None = None, **load: Any) -> Any:
    plan = synthetic.spec(**load)
    records = Records(synthetic.run(directory, change, of=plan), is_open=plan["load"]["arrivals"] != "closed")
    service_ms = statistics.latency_ms(records.service_ns(records.measured & records.good))
    facts = rundir.read_run(directory) or {}
    samples = rundir.read_samples(directory)
    return witnesses.observe(directory, facts, plan["load"], samples, records, service_ms, WINDOW)


@pytest.mark.parametrize(
    ("before", "after", "full"),
    [(4, 119, 1), (4, 118, 0), (119, 119, 0)],
    ids=["reached", "not reached", "reached by an earlier run"],
)
def test_a_balancer_that_was_full_tells_of_it_afterwards(tmp_path: Path, before: int, after: int, full: int) -> None:
    """While it is full it takes no scrape."""

    def fill(made: synthetic.Made) -> None:
        for time_s, most in ((-1.0, before), (11.0, after)):
            for name, value in (("max", most), ("limit", 119)):
                row = ("balancer", f"haproxy_frontend_{name}_sessions", {"proxy": "grpc"}, time_s, float(value))
                made.samples.append(row)

    assert observed(tmp_path, fill).interference.full == full


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_all_three_count_every_request_from_the_references_to_the_drain(tmp_path: Path, protocol: str) -> None:
    seen = observed(tmp_path, protocol=protocol)
    total = rundir.read_requests(tmp_path).num_rows
    assert {name: witness.requests for name, witness in seen.witnesses.present().items()} == {
        "client": total,
        "balancer": total,
        "server": total,
    }
    assert seen.reconcile.differences == []


def test_the_balancers_latency_is_exact_and_of_the_clients_population(tmp_path: Path) -> None:
    seen = observed(tmp_path, lambda made: synthetic.fail(made, 3))
    requests, rows = rundir.read_requests(tmp_path), rundir.read_balancer(tmp_path)
    good = pc.and_(pc.equal(requests["phase"], "measure"), pc.equal(requests["status"], "ok"))
    wanted = set(requests.filter(good)["id"].to_pylist())
    took = [row["end_us"] - row["accepted_us"] for row in rows.to_pylist() if row["id"] in wanted]
    latency = seen.witnesses.balancer.latency_ms
    assert latency.mean == pytest.approx(np.mean(took) / 1000)
    assert latency.p99 == np.percentile(took, 99, method="inverted_cdf") / 1000


def test_the_servers_mean_is_exact_and_its_percentiles_are_buckets(tmp_path: Path) -> None:
    server = observed(tmp_path).witnesses.server.latency_ms
    rows = rundir.read_balancer(tmp_path)
    done_s = (rows["end_us"].to_numpy() - synthetic.T0_US) / 1e6
    inside = (done_s > 2) & (done_s <= 12)
    took_ms = 0.94 * (rows["end_us"].to_numpy() - rows["accepted_us"].to_numpy())[inside] / 1000
    assert server.mean == pytest.approx(took_ms.mean())
    low, high = server.p99
    assert low < np.percentile(took_ms, 99) <= high and [low * 1000, high * 1000] == pytest.approx([11568, 20822])


def test_the_parts_of_the_time_add_up_to_the_clients_mean(tmp_path: Path) -> None:
    seen = observed(tmp_path)
    assert sum(dict(seen.breakdown_ms).values()) == pytest.approx(seen.witnesses.client.latency_ms.mean)
    server = seen.witnesses.server.latency_ms.mean
    assert seen.breakdown_ms.inference == pytest.approx(0.7 * server)
    assert seen.breakdown_ms.server_queue == pytest.approx(0.2 * server)


def test_a_direct_run_has_no_balancer_and_its_parts_still_add_up(tmp_path: Path) -> None:
    seen = observed(tmp_path, via="direct")
    assert seen.witnesses.balancer is None and seen.breakdown_ms.balancer_network is None
    parts = [part for _, part in seen.breakdown_ms if part is not None]
    assert sum(parts) == pytest.approx(seen.witnesses.client.latency_ms.mean)


def test_what_a_missing_witness_would_have_shown_is_unknown() -> None:
    latency = run_summary(latency_ms={"mean": 5.0}).latency_ms.without_bounds()
    client = Witness(requests=1, latency_ms=latency)
    balancer = Witness(requests=1, latency_ms=latency.model_copy(update={"mean": 4.0}))
    parts = witnesses.breakdown(Witnesses(client=client, balancer=balancer, server=None), 0.0, None, None)
    assert parts.client_network == 1.0
    assert parts.balancer_network is parts.server_queue is parts.inference is parts.server_rest is None


def test_other_methods_do_not_count_as_inference(tmp_path: Path) -> None:
    seen = observed(tmp_path, lambda made: synthetic.add_to(made, "ovms_requests_success", 50, method="ModelReady"))
    assert seen.reconcile.differences == []


def test_requests_of_the_window_that_only_the_balancer_knows_are_unaccounted(tmp_path: Path) -> None:
    def lose(made: synthetic.Made) -> None:
        made.records[1] = made.records[1][:-4]

    seen = observed(tmp_path, lose)
    assert (seen.unaccounted, seen.lost_with_worker) == (4, 0) and seen.reconcile.unaccounted == 4
    assert seen.reconcile.differences == []


def test_an_open_loops_parts_begin_with_the_lateness_and_add_up_to_the_mean_from_the_planned_time(
    tmp_path: Path,
) -> None:
    seen = observed(tmp_path, arrivals="poisson", rate_rps=300)
    records = Records(tmp_path, is_open=True)
    mean_ms = records.latency_ns(records.measured & records.good).mean() / 1e6
    assert sum(dict(seen.breakdown_ms).values()) == pytest.approx(mean_ms) and 0.2 < seen.breakdown_ms.lateness < 0.4
    assert seen.witnesses.client.latency_ms.mean < mean_ms


def test_only_records_that_were_sent_are_the_clients_count(tmp_path: Path) -> None:
    seen = observed(tmp_path, lambda made: synthetic.fail(made, 3, UNSENT), via="direct")
    assert seen.witnesses.client.requests == rundir.read_requests(tmp_path).num_rows - 3
