"""Every request has a name, the names add up, and the counts of the witnesses agree or it is said which does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof import analyse
from loadproof.analyse import RunSummary
from loadproof_clients.records import CONNECTION, LOST, TIMEOUT, UNREADABLE, UNSENT
from tests.controller import synthetic
from tests.controller.synthetic import MEASURE, Made

SESSIONS, REQUESTS = "haproxy_backend_sessions_total", "haproxy_backend_http_requests_total"
SUCCESS = "ovms_requests_success"


def analysed(directory: Path, change: synthetic.Change | None = None, **load: Any) -> RunSummary:
    return analyse.run(synthetic.run(directory, change, of=synthetic.spec(**load)), {})


def named(run: RunSummary) -> dict[str, int]:
    return {row.name: row.count for row in run.accounts}


def codes(run: RunSummary) -> list[str]:
    return [reason.code for reason in run.reasons]


def fail(made: Made, worker: int, count: int, status: int, first: int = 10) -> list[str]:
    """`count` requests of a worker's window, from number `first`, fail; their ids."""
    rows = np.flatnonzero(made.records[worker]["phase"] == MEASURE)[first : first + count]
    made.records[worker]["status"][rows] = status
    made.records[worker]["verified"][rows] = made.records[worker]["correct"][rows] = False
    return [f"s.{worker}.{made.records[worker]['sequence'][row]}.m" for row in rows]


def row_numbers(made: Made, ids: list[str]) -> list[int]:
    return [number for number, one in enumerate(made.balancer["id"]) if one in set(ids)]


def end_rows(made: Made, ids: list[str], termination: str, server: str = "model") -> None:
    for number in row_numbers(made, ids):
        made.balancer["termination"][number] = termination
    servers = np.array(made.balancer["server"], object)
    servers[row_numbers(made, ids)] = server
    made.balancer["server"] = servers.tolist()


def delete_rows(made: Made, ids: list[str]) -> None:
    gone = set(row_numbers(made, ids))
    keep = [number for number in range(len(made.balancer["id"])) if number not in gone]
    made.balancer = {name: [values[number] for number in keep] for name, values in made.balancer.items()}


def grow(name: str, amount: float) -> synthetic.Change:
    labels = {"method": "ModelInfer"} if name == SUCCESS else {"proxy": "grpc_infer"}
    return lambda made: synthetic.add_to(made, name, amount, **labels)


def clean(made: Made) -> None:
    """Nothing goes wrong."""


def server_errors(made: Made) -> None:
    fail(made, 1, 5, 13)
    fail(made, 2, 2, 500)


def never_connected(made: Made) -> None:
    delete_rows(made, fail(made, 1, 4, CONNECTION))
    for name in (REQUESTS, SESSIONS, SUCCESS):
        grow(name, -4)(made)


def closed_silently(made: Made) -> None:
    delete_rows(made, fail(made, 1, 3, CONNECTION) + fail(made, 2, 2, UNREADABLE))
    synthetic.add_to(made, REQUESTS, -5, proxy="grpc_infer")
    synthetic.add_to(made, SUCCESS, -4, method="ModelInfer")


def given_up_while_the_balancer_waited(made: Made) -> None:
    """It has a session of each and no request yet; the server may have counted it or not."""
    delete_rows(made, fail(made, 1, 4, TIMEOUT) + fail(made, 2, 2, LOST))
    grow(REQUESTS, -6)(made)
    grow(SUCCESS, -3)(made)


def given_up_before_they_came(made: Made) -> None:
    delete_rows(made, fail(made, 1, 3, TIMEOUT))
    for name in (REQUESTS, SESSIONS, SUCCESS):
        grow(name, -3)(made)


def given_up_and_closed_silently(made: Made) -> None:
    closed_silently(made)
    delete_rows(made, fail(made, 1, 2, TIMEOUT, first=50))
    grow(REQUESTS, -2)(made)
    grow(SUCCESS, -2)(made)


def cut(made: Made) -> None:
    end_rows(made, fail(made, 1, 3, CONNECTION), "SD")
    end_rows(made, fail(made, 2, 2, 1000), "CH")
    synthetic.add_to(made, SUCCESS, -4, method="ModelInfer")


def refused(made: Made) -> None:
    end_rows(made, fail(made, 1, 3, 14), "SC")
    end_rows(made, fail(made, 2, 2, 503), "PR", "<NOSRV>")
    synthetic.add_to(made, SUCCESS, -5, method="ModelInfer")


def unsent(made: Made) -> None:
    delete_rows(made, fail(made, 1, 6, UNSENT))
    for name in (REQUESTS, SESSIONS, SUCCESS):
        grow(name, -6)(made)


def worker_died(made: Made) -> None:
    made.records[2] = made.records[2][:-4]
    made.facts["workers"][1]["complete"] = False
    made.facts["events"].append({"time_s": 12.0, "code": "worker_died", "message": "killed"})
    end_rows(made, [made.balancer["id"][-1]], "CD")


def worker_died_and_was_closed_silently(made: Made) -> None:
    worker_died(made)
    synthetic.add_to(made, SESSIONS, 2, proxy="grpc_infer")


def server_died(made: Made) -> None:
    """It answered, then cut 3, closed 2 silently, and refused 4; its counters ended with an early scrape."""
    end_rows(made, fail(made, 1, 3, CONNECTION), "SD")
    refused_ids = fail(made, 2, 6, 14)
    delete_rows(made, refused_ids[:2])
    end_rows(made, refused_ids[2:], "SC")
    synthetic.add_to(made, REQUESTS, -2, proxy="grpc_infer")
    made.samples = [row for row in made.samples if row[0] != "server" or row[3] < 6]
    made.facts["events"].append({"time_s": 6.5, "code": "server_died", "message": "killed"})


def balancer_died(made: Made) -> None:
    """Its counters ended with an early scrape, the last lines of its log never came, then all was refused."""
    under_way, refused_ids = fail(made, 1, 2, 14), fail(made, 2, 9, CONNECTION)
    answered = [one for one in made.balancer["id"] if one.endswith(".m")][-3:]
    delete_rows(made, under_way + refused_ids + answered)
    made.samples = [row for row in made.samples if row[0] != "balancer" or row[3] < 6]
    synthetic.add_to(made, SUCCESS, -9, method="ModelInfer")
    made.facts["events"].append({"time_s": 6.5, "code": "balancer_died", "message": "killed"})


def lines_lost(made: Made) -> None:
    synthetic.drop_rows(made, 7)


def records_lost(made: Made) -> None:
    made.records[1] = made.records[1][:-5]


def another_user(made: Made) -> None:
    made.balancer["id"][-1] = ""
    synthetic.remove(made, 1, 1)
    made.balancer["id"][-2] = "other.1.2.m"
    synthetic.remove(made, 2, 1)


SITUATIONS: dict[Callable[[Made], None], tuple[dict[str, int], list[str]]] = {
    clean: ({}, []),
    server_errors: ({"failed: INTERNAL": 5, "failed: 500": 2}, ["failed_answers"]),
    never_connected: ({"never connected": 4}, ["failed_answers"]),
    closed_silently: ({"closed silently": 5}, ["failed_answers"]),
    given_up_while_the_balancer_waited: ({"failed: timeout": 4, "failed: lost": 2}, ["failed_answers"]),
    given_up_before_they_came: ({"failed: timeout": 3}, ["failed_answers"]),
    given_up_and_closed_silently: ({"closed silently": 5, "failed: timeout": 2}, ["failed_answers"]),
    cut: ({"cut: SD": 3, "cut: CH": 2}, ["failed_answers"]),
    refused: ({"answered by the balancer": 5}, ["failed_answers", "balancer_interfered"]),
    unsent: ({"not sent": 6}, ["in_flight_limit"]),
    worker_died: ({"lost with a worker": 4}, ["worker_died"]),
    worker_died_and_was_closed_silently: ({"lost with a worker": 6}, ["worker_died"]),
    server_died: (
        {"cut: SD": 3, "closed silently": 2, "answered by the balancer": 4},
        ["server_died", "failed_answers"],
    ),
    balancer_died: ({"lost with the balancer": 11}, ["balancer_died", "failed_answers"]),
    lines_lost: ({}, ["log_lines_dropped"]),
    records_lost: ({"unaccounted": 5}, ["unaccounted_requests"]),
}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_every_request_has_a_name_and_the_names_add_up(tmp_path: Path, situation: Callable[[Made], None]) -> None:
    made = synthetic.make()
    rows_before, records_before = len(made.balancer["id"]), sum(map(len, made.records.values()))
    situation(made)
    made.write(tmp_path)
    run = analyse.run(tmp_path, {})
    expected, reasons = SITUATIONS[situation]
    counts = named(run)
    right = counts.pop("answered right")
    assert (counts, codes(run), run.reconcile.differences) == (expected, reasons, [])
    silent = 2 if situation is worker_died_and_was_closed_silently else 0
    assert rows_before == records_before and right + sum(counts.values()) == records_before + silent


@pytest.mark.parametrize("via", ["balancer", "direct"])
def test_what_an_open_loop_planned_and_nobody_sent_has_a_name_of_its_own(tmp_path: Path, via: str) -> None:
    plan = synthetic.spec(arrivals="poisson", rate_rps=300, via=via)
    made = synthetic.make(of=plan)
    made.facts["planned"] = planned = sum(len(rows) for worker, rows in made.records.items() if worker) + 700
    worker_died(made)
    made.write(tmp_path)
    counts = named(analyse.run(tmp_path, {}))
    lost = 4 if via == "balancer" else 0  # nobody else can know of them
    assert counts["not sent: the run ended early"] == 704 - lost and counts.get("lost with a worker", 0) == lost
    assert sum(counts.values()) == planned + len(made.records[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (grow(SUCCESS, 3), "the balancer forwarded 5,793 requests, the server counted 5,796 (+3)"),
        (grow(SUCCESS, -3), "the server counted 5,790 (-3)"),
        (grow(SESSIONS, 2), "closed 2 more requests silently"),
        (grow(REQUESTS, -2), "the balancer counted 5,791 requests, its log has 5,793 (+2)"),
        (another_user, "2 of the balancer's requests carry no id"),
    ],
)
def test_what_nothing_explains_is_a_difference(tmp_path: Path, change: synthetic.Change, words: str) -> None:
    run = analysed(tmp_path, change)
    assert "witnesses_disagree" in codes(run) and words in "; ".join(run.reconcile.differences)


def test_an_answered_request_without_a_line_is_a_difference_where_the_log_is_whole(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        synthetic.drop_rows(made, 1)
        synthetic.add_to(made, REQUESTS, -1, proxy="grpc_infer")
        synthetic.add_to(made, SUCCESS, -1, method="ModelInfer")

    run = analysed(tmp_path, harm)
    assert "1 of the client's 5,793 requests are not in the balancer's log" in run.reconcile.differences


def test_records_that_share_an_id_are_a_difference(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        made.records[1]["sequence"][-1] = made.records[1]["sequence"][-2]

    run = analysed(tmp_path, harm)
    assert "1 of the client's requests share an id with another" in run.reconcile.differences


def test_a_request_that_was_logged_twice_has_one_row_too_many(tmp_path: Path) -> None:
    def harm(made: Made) -> None:
        made.balancer = {name: [*values, values[-1]] for name, values in made.balancer.items()}
        for name in (REQUESTS, SESSIONS):
            synthetic.add_to(made, name, 1, proxy="grpc_infer")
        synthetic.add_to(made, SUCCESS, 1, method="ModelInfer")

    run = analysed(tmp_path, harm)
    assert run.requests.unaccounted == 1 and codes(run) == ["unaccounted_requests"]


def test_a_witness_that_was_not_scraped_is_missed_only_if_something_was_sent(tmp_path: Path) -> None:
    def unscraped(made: Made) -> None:
        made.samples = made.samples[:1]

    assert analysed(tmp_path, unscraped).reconcile.differences == [
        "the balancer's counters were not scraped",
        "the server's counters were not scraped",
    ]


def test_a_direct_run_compares_client_and_server(tmp_path: Path) -> None:
    assert analysed(tmp_path / "a", via="direct").reconcile.differences == []

    def unsure(made: Made) -> None:
        fail(made, 1, 2, CONNECTION)
        synthetic.add_to(made, SUCCESS, -2, method="ModelInfer")

    run = analysed(tmp_path / "b", unsure, via="direct")
    assert run.reconcile.differences == [] and named(run)["failed: connection"] == 2

    def short(made: Made) -> None:
        synthetic.add_to(made, SUCCESS, -1, method="ModelInfer")

    found = analysed(tmp_path / "c", short, via="direct").reconcile.differences
    assert found == ["the client sent 5,793 requests, the server counted 5,792 (-1)"]


def test_a_direct_run_that_lost_a_worker_may_have_served_more_than_there_are_records_of(tmp_path: Path) -> None:
    run = analysed(tmp_path, worker_died, via="direct")
    assert run.reconcile.differences == [] and codes(run) == ["worker_died"]


def test_a_server_that_restarted_is_told_and_its_counters_are_no_disagreement(tmp_path: Path) -> None:
    def restart(made: Made) -> None:
        at_six = {str(row[1:3]): row[4] for row in made.samples if row[0] == "server" and row[3] == 6}
        made.samples = [
            (*row[:4], row[4] - at_six.get(str(row[1:3]), 0)) if row[0] == "server" and row[3] > 6 else row
            for row in made.samples
        ]

    run = analysed(tmp_path, restart)
    assert codes(run) == ["restarted"] and "the server" in run.reasons[0].message
    assert run.reconcile.server_counted == 5793  # nothing was lost between two scrapes here
