"""Every reason of the table fires on what it is for, alone where that is possible, and none on a clean run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller import analyse
from controller.analyse import checks
from tests.controller import synthetic
from tests.controller.synthetic import MEASURE, Made


def event(code: str) -> synthetic.Change:
    return lambda made: made.facts["events"].append({"time_s": 3.25, "code": code, "message": f"{code} it was"})


def answer_wrong(made: Made) -> None:
    made.records[1]["correct"][np.flatnonzero(made.records[1]["phase"] == MEASURE)[:2]] = False


def lose_records(made: Made) -> None:
    made.records[2] = made.records[2][:-5]


def drop_log_lines(made: Made) -> None:
    made.facts["log"]["dropped"] = 1234


def serve_others(made: Made) -> None:
    synthetic.add_to(made, "ovms_requests_success", 3, method="ModelInfer")


def measure_nothing(made: Made) -> None:
    for worker, rows in made.records.items():
        made.records[worker] = rows[rows["phase"] != MEASURE]
    sent = sum(len(rows) for rows in made.records.values())
    keep = [number for number, name in enumerate(made.balancer["id"]) if not name.endswith(".m")]
    made.balancer = {name: [values[number] for number in keep] for name, values in made.balancer.items()}
    made.samples = [(*row[:4], min(row[4], sent)) for row in made.samples]


def saturate(made: Made) -> None:
    busy = made.generator["worker"] == 2
    made.generator["cpu_percent"] = np.where(busy, 96.0, 40.0)


FIRES: dict[str, tuple[synthetic.Change, str]] = {
    "interrupted": (event("interrupted"), "interrupted it was (at 3.2 s)"),
    "server_died": (event("server_died"), "server_died it was"),
    "balancer_died": (event("balancer_died"), "balancer_died it was"),
    "worker_died": (event("worker_died"), "worker_died it was"),
    "reference_failed": (event("reference_failed"), "reference_failed it was"),
    "no_requests": (measure_nothing, "No request was sent"),
    "failed_answers": (lambda made: synthetic.fail(made, 12), "12 of 4,748 requests failed: UNAVAILABLE 12."),
    "wrong_answers": (answer_wrong, "2 of 4,748 answers differ"),
    "unaccounted_requests": (lose_records, "5 requests of the window"),
    "log_lines_dropped": (drop_log_lines, "1,234 lines"),
    "witnesses_disagree": (serve_others, "the server counted 5,732 (+3)"),
    "generator_saturated": (saturate, "96 % of a core"),
}


def judged(directory: Path, change: synthetic.Change | None = None) -> dict[str, Any]:
    return analyse.run(synthetic.run(directory, change), {})


def test_a_clean_run_raises_nothing(tmp_path: Path) -> None:
    for seed in range(10):
        result = analyse.run(synthetic.run(tmp_path / str(seed), seed=seed), {})
        assert (result["verdict"], result["reasons"]) == ("VALID", [])


@pytest.mark.parametrize("reason", checks.REASONS, ids=lambda reason: reason.code)
def test_a_reason_fires_alone_on_what_it_is_for(tmp_path: Path, reason: checks.Reason) -> None:
    change, words = FIRES[reason.code]
    result = judged(tmp_path, change)
    (found,) = result["reasons"]
    assert (found["code"], found["severity"], found["remedy"]) == (reason.code, reason.severity, reason.remedy)
    assert words in found["message"] and result["verdict"] == reason.severity


def test_the_worst_reason_is_first_and_makes_the_verdict(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        saturate(made)
        answer_wrong(made)

    result = judged(tmp_path, harm)
    assert [reason["code"] for reason in result["reasons"]] == ["wrong_answers", "generator_saturated"]
    assert result["verdict"] == "INVALID"


def test_one_busy_second_is_not_saturation(tmp_path: Path) -> None:
    def spike(made: Made) -> None:
        made.generator["cpu_percent"][-2] = 100.0

    result = judged(tmp_path, spike)
    assert result["verdict"] == "VALID" and result["generator"]["cpu_percent_max"] == 100


def test_dropped_lines_that_the_controller_saw_count_without_a_number(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, event("log_lines_dropped"))["reasons"]
    assert found["code"] == "log_lines_dropped" and "it was" in found["message"]


def test_a_run_that_left_nothing_has_one_reason_not_five(tmp_path: Path) -> None:
    result = analyse.run(tmp_path, synthetic.spec())
    assert [reason["code"] for reason in result["reasons"]] == ["interrupted"]


def test_a_failed_request_that_never_connected_is_failed_and_not_a_disagreement(tmp_path: Path) -> None:
    result = judged(tmp_path, synthetic.never_connected)
    assert [reason["code"] for reason in result["reasons"]] == ["failed_answers"]
    assert result["reconcile"]["never_arrived"] == 1


def test_the_table_has_the_worst_reasons_first() -> None:
    severities = [reason.severity for reason in checks.REASONS]
    assert severities == sorted(severities, key=["INVALID", "FLAGGED"].index)


def test_codes_are_unique_and_every_reason_says_what_to_do() -> None:
    codes = [reason.code for reason in checks.REASONS]
    assert len(set(codes)) == len(codes) and set(codes) == set(FIRES)
    assert all(reason.remedy.endswith(".") and reason.message.endswith(".") for reason in checks.REASONS)
