"""The figures of summary.json, from whole run directories and from what is left of broken ones."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from loadproof import analyse, rundir
from loadproof.errors import Exit
from loadproof_clients.records import TOO_LARGE, UNSENT
from tests.controller import synthetic
from tests.controller.summaries import run_summary
from tests.controller.summaries import summary as summary_of
from tests.controller.synthetic import MEASURE, Made


def analysed(directory: Path, change: synthetic.Change | None = None, **made: Any) -> Any:
    return analyse.run(synthetic.run(directory, change, **made), {})


def test_percentiles_are_the_nearest_rank_ones_of_the_measured_ok_rows(tmp_path: Path) -> None:
    result = analysed(tmp_path, lambda made: synthetic.fail(made, 9))
    rows = pq.read_table(tmp_path / "requests.parquet").to_pylist()
    took = sorted(
        row["received_ns"] - row["sent_ns"] for row in rows if row["phase"] == "measure" and row["status"] == "ok"
    )
    for name, p in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        assert result.latency_ms[name] == took[math.ceil(p * len(took)) - 1] / 1e6
    assert result.latency_ms.max == took[-1] / 1e6
    assert result.latency_ms.mean == pytest.approx(sum(took) / len(took) / 1e6)
    assert result.latency_ms.p99_9 is None and len(took) < 6636


def test_a_wrong_answer_never_enters_the_latency_of_the_good_ones(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        slow = int(
            np.argmax(
                (made.records[1]["received_ns"] - made.records[1]["sent_ns"]) * (made.records[1]["phase"] == MEASURE)
            )
        )
        made.records[1]["received_ns"][slow] += 10**10
        made.records[1]["correct"][slow] = False

    result = analysed(tmp_path, harm)
    assert result.requests.wrong == 1 and result.latency_ms.max < 1000


def test_throughput_counts_the_good_answers_that_came_inside_the_window(tmp_path: Path) -> None:
    result = analysed(tmp_path, lambda made: synthetic.fail(made, 20), of=synthetic.spec(batch=8))
    rows = rundir.read_requests(tmp_path).to_pylist()
    came = [row for row in rows if 2e9 <= row["received_ns"] < 12e9 and row["status"] == "ok"]
    assert {row["phase"] for row in came} == {"warmup", "measure"}
    assert result.throughput_rps == pytest.approx(len(came) / 10)
    assert result.throughput_ips == pytest.approx(len(came) / 10 * 8)


def test_a_clean_run_is_valid_and_says_when_its_window_was(tmp_path: Path) -> None:
    result = analysed(tmp_path)
    assert (result.verdict, result.reasons) == ("VALID", [])
    assert dict(result.window) == {"start": "2026-09-21T14:13:22.000Z", "warmup_s": 2.0, "duration_s": 10.0}
    counts = result.requests
    assert counts.sent == counts.ok > 1000 and counts.failed == counts.wrong == counts.unaccounted == 0
    assert result.warmup.sent + counts.sent + synthetic.BEFORE == result.witnesses.client.requests
    assert result.generator.workers == 2 and 30 < result.generator.cpu_percent_max < 70


def test_a_short_run_has_no_p99_and_says_why_and_is_still_valid(tmp_path: Path) -> None:
    result = analysed(tmp_path, service_ms=200.0, of=synthetic.spec(clients=4))
    assert 130 < result.requests.sent < 662
    assert result.latency_ms.p95 is not None and result.latency_ms.p99 is None
    assert result.verdict == "VALID" and any("p99 662" in note for note in result.notes)


def test_notes_tell_what_no_verdict_hangs_on(tmp_path: Path) -> None:
    def external(made: Made) -> None:
        made.facts["server"] = {"metrics": False}
        made.facts["references"] = {"source": "server", "error": None}

    result = analysed(tmp_path, external, of=synthetic.spec(via="direct", verify=0.25))
    assert result.verdict == "VALID" and result.witnesses.server is None
    notes = " ".join(result.notes)
    for told in ("consistency, not correctness", "25 % of the answers", "no /metrics", "no balancer counted"):
        assert told in notes
    assert "not compared" in " ".join(analysed(tmp_path / "none", of=synthetic.spec(verify=0.0)).notes)


def test_a_note_names_the_bound_that_answers_or_pages_met(tmp_path: Path) -> None:
    def change(made: Made) -> None:
        synthetic.fail(made, 3, TOO_LARGE)
        made.facts["bounds_met"] = ["http://a/metrics: the page has more than 12,000 series"]

    notes = " ".join(analysed(tmp_path, change, of=synthetic.spec(max_answer_mb=7)).notes)
    assert "3 answers were over load.max_answer_mb = 7" in notes
    assert "A bound on what a server may answer was met: http://a/metrics: the page has more than 12,000" in notes


def test_how_far_another_clock_can_be_off_stands_beside_what_is_compared_with_it(tmp_path: Path) -> None:
    def elsewhere(made: Made) -> None:
        for worker, bound_ns in zip(made.facts["workers"], (0, 412_345), strict=True):
            worker["offset_bound_ns"] = bound_ns

    result = analysed(tmp_path, elsewhere)
    assert result.generator.clock_bound_ms_max == 0.412345
    assert any(note.startswith("1 of 2 workers read another clock") and "0.412 ms" in note for note in result.notes)
    alone = analysed(tmp_path / "alone")
    assert alone.generator.clock_bound_ms_max == 0 and "another clock" not in " ".join(alone.notes)


def test_limits_are_judged_and_one_without_a_figure_is_not_kept(tmp_path: Path) -> None:
    plan = synthetic.spec()
    plan["slo"] = {"p99_ms": 50, "p50_ms": 1.0, "p99_9_ms": 1000, "error_rate": 0.0, "throughput_rps": 100}
    kept = {limit.metric: limit.ok for limit in analysed(tmp_path, of=plan).slo}
    assert kept == {"p99_ms": True, "p50_ms": False, "p99_9_ms": False, "error_rate": True, "throughput_rps": True}


def test_the_error_rate_holds_failed_wrong_and_unaccounted(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        synthetic.fail(made, 3)
        made.records[2] = made.records[2][:-2]

    result = analysed(tmp_path, harm)
    assert result.requests.unaccounted == 2
    assert analyse.metrics(result)["error_rate"] == pytest.approx(5 / (result.requests.sent + 2))


FILES = ("requests.parquet", "balancer.parquet", "samples.parquet", "generator.parquet", "run.json")


@pytest.mark.parametrize("missing", [(name,) for name in FILES[:3]] + [FILES, FILES[:4], FILES[1:]], ids=" ".join)
def test_a_run_with_missing_parts_is_summarised_and_invalid(tmp_path: Path, missing: tuple[str, ...]) -> None:
    directory = synthetic.campaign(tmp_path, [("one", synthetic.make())])
    for name in missing:
        (tmp_path / "runs/001-one" / name).unlink()
    (result,) = analyse.campaign(directory).runs
    assert result.verdict == "INVALID" and result.spec["load"]["clients"] == 4


def test_a_missing_generator_file_costs_only_its_figures(tmp_path: Path) -> None:
    directory = synthetic.campaign(tmp_path, [("one", synthetic.make())])
    (tmp_path / "runs/001-one/generator.parquet").unlink()
    (result,) = analyse.campaign(directory).runs
    assert result.verdict == "VALID" and result.generator.cpu_percent_max is None


def test_a_campaign_is_summarised_as_far_as_it_got(tmp_path: Path) -> None:
    summary = analyse.campaign(synthetic.campaign(tmp_path, [("a", synthetic.make()), ("b", None), ("c", None)]))
    assert [one.name for one in summary.runs] == ["a"] and summary.campaign.runs_missing == 2
    assert analyse.read(tmp_path) == summary
    with (tmp_path / "summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["verdict"] == "VALID" and float(row["p99_ms"]) == summary.runs[0].latency_ms.p99
    assert row["client_requests"] == row["balancer_requests"] == row["server_requests"]


def test_a_campaign_without_a_run_has_an_empty_summary(tmp_path: Path) -> None:
    summary = analyse.campaign(synthetic.campaign(tmp_path, [("a", None)]))
    assert summary.runs == [] and analyse.exit_code(summary) == Exit.INVALID


def test_repeats_show_their_spread_and_single_runs_none(tmp_path: Path) -> None:
    runs = [(f"r{seed}", synthetic.make(seed)) for seed in (1, 2, 3)]
    summary = analyse.campaign(
        synthetic.campaign(tmp_path, [*runs, ("other", synthetic.make(4, of=synthetic.spec(clients=2)))])
    )
    (group,) = summary.repeats
    p99 = sorted(one.latency_ms.p99 or 0 for one in summary.runs[:3])
    assert group.runs == ["r1", "r2", "r3"] and list(group.metrics["p99_ms"]) == p99 and "p99_9_ms" not in group.metrics


def test_the_exit_code_puts_an_invalid_run_before_a_broken_limit() -> None:
    kept = {"metric": "p99_ms", "limit": 50.0, "value": 40.0, "ok": True}
    good, flagged = (run_summary(verdict=verdict, slo=[kept]) for verdict in ("VALID", "FLAGGED"))
    broken, invalid = (
        run_summary(verdict=verdict, slo=[kept, kept | {"ok": False}]) for verdict in ("VALID", "INVALID")
    )
    assert analyse.exit_code(summary_of(good, flagged)) == Exit.GOOD
    assert analyse.exit_code(summary_of(good, broken)) == Exit.GATE
    assert analyse.exit_code(summary_of(broken, invalid, good)) == Exit.INVALID


def test_an_open_loop_has_both_latencies_and_what_was_offered(tmp_path: Path) -> None:
    plan = synthetic.spec(arrivals="poisson", rate_rps=300)
    result = analysed(tmp_path, lambda made: synthetic.fail(made, 5, UNSENT), of=plan)
    rows = [row for row in pq.read_table(tmp_path / "requests.parquet").to_pylist() if row["phase"] == "measure"]
    took = sorted(row["received_ns"] - row["planned_ns"] for row in rows if row["status"] == "ok")
    service = sorted(row["received_ns"] - row["sent_ns"] for row in rows if row["status"] == "ok")
    for name, p in (("p50", 0.5), ("p99", 0.99)):
        assert result.latency_ms[name] == took[math.ceil(p * len(took)) - 1] / 1e6
        assert result.service_latency_ms[name] == service[math.ceil(p * len(service)) - 1] / 1e6
    assert result.offered_rps == len(rows) / 10 and result.requests.sent == len(rows) - 5
    assert analyse.metrics(result)["error_rate"] == pytest.approx(5 / len(rows))


def test_throughput_lies_inside_its_bounds_and_a_short_window_has_none(tmp_path: Path) -> None:
    result = analysed(tmp_path / "a")
    bounds = result.throughput_bounds
    assert 440 < bounds.low < result.throughput_rps < bounds.high < 510 and bounds.confidence == 0.99
    short = synthetic.spec()
    short["measure"]["duration_s"] = 5.0
    assert analysed(tmp_path / "b", of=short).throughput_bounds is None


def test_runs_that_are_known_are_not_analysed_again(tmp_path: Path) -> None:
    directory = synthetic.campaign(tmp_path, [("a", synthetic.make()), ("b", synthetic.make(2))])
    whole = analyse.campaign(directory)
    known = whole.model_copy(update={"runs": whole.runs[:1]})
    (tmp_path / "runs/001-a/requests.parquet").unlink()
    assert analyse.campaign(directory, known) == whole
    assert json.loads((tmp_path / "summary.json").read_text()) == whole.model_dump(mode="json")
