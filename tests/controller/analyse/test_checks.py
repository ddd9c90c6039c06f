"""Every reason of the table fires on what it is for, alone where that is possible, and none on a clean run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof import analyse
from loadproof.analyse import checks
from loadproof.analyse.schema import Calibration
from loadproof_clients.records import UNSENT
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


def restart(made: Made) -> None:
    """The server's counters begin again after 6 s."""
    at_six = {str(row[1:3]): row[4] for row in made.samples if row[0] == "server" and row[3] == 6}
    made.samples = [
        (*row[:4], row[4] - at_six.get(str(row[1:3]), 0)) if row[0] == "server" and row[3] > 6 else row
        for row in made.samples
    ]


def slow_down(made: Made) -> None:
    """The server takes up to 60 % longer along the window; the clients have time to spare and send as before."""
    for rows in made.records.values():
        along = np.clip((rows["sent_ns"] - 2e9) / 10e9, 0, 1)
        rows["received_ns"] += ((rows["received_ns"] - rows["sent_ns"]) * 0.6 * along).astype(np.int64)


def overload(made: Made) -> None:
    """Each request waits as long as a queue that is offered 10 % too much makes it wait."""
    for rows in made.records.values():
        rows["received_ns"] += (np.clip(rows["planned_ns"], 0, None) * 0.1).astype(np.int64)


def unchanged(made: Made) -> None:
    """The reason is not in the run but in the calibration that it is held to."""


def outlast(made: Made) -> None:
    """All requests of the last two seconds take as long as the whole window."""
    for rows in made.records.values():
        rows["received_ns"][rows["sent_ns"] > 10e9] += 10_000_000_000


def change_model(made: Made) -> None:
    shorter = {"name": "x", "datatype": "FP32", "shape": [1, 3, 24, 96]}
    versions = [{"version": "1", "state": "LOADING"}]
    made.facts["server"]["served"][1:] = [
        {"metadata": synthetic.SERVED["metadata"] | {"inputs": [shorter]}, "status": {"model_version_status": versions}}
    ]


def send_late(made: Made) -> None:
    """One send in fifty goes 12 ms after it was due."""
    for rows in made.records.values():
        late = np.flatnonzero(rows["phase"] == MEASURE)[::50]
        rows["sent_ns"][late] = rows["planned_ns"][late] + 12_000_000
        rows["received_ns"][late] += 12_000_000


def fill_connections(made: Made) -> None:
    for name, value in (("current", 1000.0), ("max", 1000.0)):
        made.samples.append(("balancer", f"haproxy_process_{name}_connections", {}, 5.0, value))


def start_cold(made: Made) -> None:
    """The server is cold until the window's first twentieth of a second is over."""
    for rows in made.records.values():
        cold = (rows["sent_ns"] > 0) & (rows["sent_ns"] < 2.2e9)
        rows["received_ns"][cold] += 16_000_000


def answer_five(made: Made) -> None:
    for worker in (1, 2):
        made.records[worker] = made.records[worker][:0]
    rows = made.records[0][:5].copy()
    rows["sequence"], rows["phase"] = np.arange(5), MEASURE
    for name in ("planned_ns", "sent_ns", "received_ns"):
        rows[name] += 9_000_000_000
    made.records[1] = rows
    alone(made)


def alone(made: Made) -> None:
    """Only the clients' records are left: nobody else can disagree with them."""
    made.spec["load"]["via"] = "direct"
    made.samples = [row for row in made.samples if row[0] != "server"]
    made.facts["server"]["metrics"] = False


def start_apart(made: Made) -> None:
    """Worker 2 lost its core for half a second when it was to begin."""
    for name in ("planned_ns", "sent_ns", "received_ns"):
        made.records[2][name] += 500_000_000
    made.records[2] = made.records[2][made.records[2]["sent_ns"] < 12e9]
    made.records[2]["phase"] = np.where(made.records[2]["sent_ns"] < 2e9, synthetic.WARMUP, MEASURE)
    alone(made)


def retry(made: Made) -> None:
    made.balancer["retries"] = np.where(np.arange(len(made.balancer["id"])) < 3, 1, 0).astype(np.int16)


def cache(made: Made) -> None:
    rows = made.records[0]
    again = (rows["phase"] == synthetic.AUDIT) & (rows["payload"] == 0) & (rows["sequence"] > 0)
    rows["received_ns"][again] -= (rows["received_ns"][again] - rows["sent_ns"][again]) // 4


def step_clock(made: Made) -> None:
    later = (made.generator["worker"] == 1) & (made.generator["time_s"] > 6)
    made.generator["wall_ns"] = made.generator["wall_ns"] + np.where(later, 250_000_000, 0)


def machine(name: str, by: float, gauge: bool = False, **labels: str) -> synthetic.Change:
    """That counter grows by so much more in each second; a gauge changes so much along the run."""

    def change(made: Made) -> None:
        made.samples = [
            (*row[:4], row[4] + by * max(0.0, row[3]) / (12 if gauge else 1))
            if row[1] == name and labels.items() <= row[2].items()
            else row
            for row in made.samples
        ]

    return change


def starve(made: Made) -> None:
    """The workers' threads wait for a core for 1.2 s of every second, all together."""
    made.generator["wait_percent"] = made.generator["wait_percent"] + 120.0


OPEN = synthetic.spec(arrivals="poisson", rate_rps=400.0, max_in_flight=50)

FIRES: dict[str, tuple[synthetic.Change, str]] = {
    "interrupted": (event("interrupted"), "interrupted it was (at 3.2 s)"),
    "server_died": (event("server_died"), "server_died it was"),
    "balancer_died": (event("balancer_died"), "balancer_died it was"),
    "worker_died": (event("worker_died"), "worker_died it was"),
    "reference_failed": (event("reference_failed"), "reference_failed it was"),
    "no_requests": (measure_nothing, "No request was sent"),
    "worker_restarted": (event("worker_restarted"), "worker_restarted it was"),
    "model_changed": (
        change_model,
        "during the run: its metadata.inputs.x.shape went from -1, 3, 48, 192 to 1, 3, 24, 96; "
        "its status.model_version_status.1.state went from AVAILABLE to LOADING.",
    ),
    "late_sends": (send_late, "(2.0 %) were sent over 10 ms"),
    "connection_limit": (fill_connections, "The balancer took no more connections"),
    "cold_start": (start_cold, "where 8.0"),
    "too_few_samples": (answer_five, "5 good answers are too few"),
    "started_apart": (start_apart, "The workers began 500 ms apart"),
    "balancer_interfered": (retry, "retried 3."),
    "cached_answers": (cache, "answered in 7"),
    "clock_stepped": (step_clock, "of worker 1 by 250 ms"),
    "other_load": (machine("machine_busy_seconds_total", 0.5), "Something else used 26 % of this machine's 2 CPUs"),
    "cpu_stolen": (machine("machine_steal_seconds_total", 0.1), "took 5.0 % of its CPU time"),
    "shared_cores": (starve, "its own threads waited 5"),
    "cpu_speed_changed": (machine("machine_frequency_mhz", -600, gauge=True), "frequency changed by -2"),
    "restarted": (restart, "counters of the server began again"),
    "in_flight_limit": (
        lambda made: synthetic.fail(made, 12, UNSENT),
        "12 requests were due and not sent: 10,000 were under way",
    ),
    "queue_growing": (overload, "91 % of the offered"),
    "not_steady": (slow_down, "Latency changed by +"),
    "littles_law": (outlast, "throughput times latency gives"),
    "failed_answers": (lambda made: synthetic.fail(made, 12), "12 of 4,748 requests failed: UNAVAILABLE 12."),
    "wrong_answers": (answer_wrong, "2 of 4,748 answers differ"),
    "unaccounted_requests": (lose_records, "5 requests of the window"),
    "log_lines_dropped": (drop_log_lines, "1,234 lines"),
    "witnesses_disagree": (serve_others, "the server counted 5,796 (+3)"),
    "generator_saturated": (saturate, "96 % of a core"),
    "near_ceiling": (unchanged, "made 95 % of the 250 requests/s"),
    "mostly_floor": (unchanged, "4.50 ms, 56 % of the median latency"),
}

# By which the runs are judged; elsewhere there is none
CALIBRATIONS = {
    "near_ceiling": Calibration.model_validate(synthetic.calibration(ceiling_rps=250)),
    "mostly_floor": Calibration.model_validate(synthetic.calibration(floor_ms=4.5)),
}


LOADS = {"queue_growing": OPEN, "late_sends": OPEN}


def judged(
    directory: Path, change: synthetic.Change | None = None, calibration: Calibration | None = None, **made: Any
) -> Any:
    return analyse.run(synthetic.run(directory, change, **made), {}, calibration)


@pytest.mark.parametrize("load", [None, OPEN], ids=["closed", "open"])
def test_a_clean_run_raises_nothing(tmp_path: Path, load: dict[str, Any] | None) -> None:
    for seed in range(10):
        result = analyse.run(synthetic.run(tmp_path / str(seed), seed=seed, of=load), {})
        assert (result.verdict, result.reasons) == ("VALID", [])


@pytest.mark.parametrize("reason", checks.REASONS, ids=lambda reason: reason.code)
def test_a_reason_fires_alone_on_what_it_is_for(tmp_path: Path, reason: checks.Reason) -> None:
    change, words = FIRES[reason.code]
    result = judged(tmp_path, change, CALIBRATIONS.get(reason.code), of=LOADS.get(reason.code))
    (found,) = result.reasons
    assert (found.code, found.severity, found.remedy) == (reason.code, reason.severity, reason.remedy)
    assert words in found.message and result.verdict == reason.severity


def test_the_worst_reason_is_first_and_makes_the_verdict(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        saturate(made)
        answer_wrong(made)

    result = judged(tmp_path, harm)
    assert [reason.code for reason in result.reasons] == ["wrong_answers", "generator_saturated"]
    assert result.verdict == "INVALID"


def test_one_busy_second_is_not_saturation(tmp_path: Path) -> None:
    def spike(made: Made) -> None:
        made.generator["cpu_percent"][-2] = 100.0

    result = judged(tmp_path, spike)
    assert result.verdict == "VALID" and result.generator.cpu_percent_max == 100


@pytest.mark.parametrize(("late_ms", "codes"), [(0, []), (5, ["generator_saturated"])])
def test_an_open_loop_that_spins_is_saturated_only_where_it_falls_behind(
    tmp_path: Path, late_ms: int, codes: list[str]
) -> None:
    """It spins before each send, so that its CPU is no measure of what it could do."""

    def spin(made: Made) -> None:
        saturate(made)
        for rows in made.records.values():
            rows["planned_ns"] = rows["sent_ns"] - late_ms * 1_000_000

    found = judged(tmp_path, spin, of=OPEN)
    assert found.generator.cpu_percent_median == 96
    assert [reason.code for reason in found.reasons] == codes


def test_dropped_lines_that_the_controller_saw_count_without_a_number(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, event("log_lines_dropped")).reasons
    assert found.code == "log_lines_dropped" and "it was" in found.message


def test_a_run_that_left_nothing_has_one_reason_not_five(tmp_path: Path) -> None:
    result = analyse.run(tmp_path, synthetic.spec())
    assert [reason.code for reason in result.reasons] == ["interrupted"]


def test_a_failed_request_that_never_connected_is_failed_and_not_a_disagreement(tmp_path: Path) -> None:
    result = judged(tmp_path, synthetic.never_connected)
    assert [reason.code for reason in result.reasons] == ["failed_answers"]
    assert result.reconcile.never_connected == 1


def test_the_table_has_the_worst_reasons_first() -> None:
    severities = [reason.severity for reason in checks.REASONS]
    assert severities == sorted(severities, key=["INVALID", "FLAGGED"].index)


def test_codes_are_unique_and_every_reason_says_what_to_do() -> None:
    codes = [reason.code for reason in checks.REASONS]
    assert len(set(codes)) == len(codes) and set(codes) == set(FIRES)
    assert all(reason.remedy.endswith(".") and reason.message.endswith(".") for reason in checks.REASONS)


def overloaded(directory: Path, change: synthetic.Change = overload, **load: Any) -> list[str]:
    result = judged(directory, change, of=synthetic.spec(rate_rps=400.0, **load))
    return [reason.code for reason in result.reasons]


def test_a_rate_that_changes_on_purpose_is_not_held_against_the_server(tmp_path: Path) -> None:
    def wait_and_recover(made: Made) -> None:
        """The queue grows by 5 requests a second, which the server answers within the window."""
        for rows in made.records.values():
            rows["received_ns"] += (np.clip(rows["planned_ns"], 0, None) * 0.02).astype(np.int64)

    assert overloaded(tmp_path / "a", wait_and_recover, arrivals="poisson") == ["queue_growing"]
    assert overloaded(tmp_path / "b", wait_and_recover, arrivals="steps", steps=[[100, 6], [400, 6]]) == []
    assert overloaded(tmp_path / "c", arrivals="trace") == ["queue_growing"]


def test_a_change_of_latency_needs_a_size_and_ten_seconds(tmp_path: Path) -> None:
    def slightly(made: Made) -> None:
        for rows in made.records.values():
            along = np.clip((rows["sent_ns"] - 2e9) / 10e9, 0, 1)
            rows["received_ns"] += ((rows["received_ns"] - rows["sent_ns"]) * 0.15 * along).astype(np.int64)

    result = judged(tmp_path / "a", slightly)
    assert result.reasons == [] and 0.05 < result.steady.latency.low < result.steady.latency.change
    short = synthetic.spec()
    short["measure"]["duration_s"] = 9.0
    result = judged(tmp_path / "b", slow_down, of=short)
    assert result.reasons == [] and result.steady.latency is None
