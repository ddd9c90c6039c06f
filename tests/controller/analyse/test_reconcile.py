"""The equations between the witnesses, and what is said when one does not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from controller import rundir
from controller.analyse.reconcile import BalancerLog, balancer_log, matching, reconcile


def log(requests: dict[str, str], rows: list[tuple[str, str, str]]) -> BalancerLog:
    """The log of `rows` (id, termination, server) beside records of id and status."""
    ids, ends, servers = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    table = pa.table({"id": ids, "termination": ends, "server": servers})
    table = table.cast(pa.schema([rundir.BALANCER.field(name) for name in table.column_names]))
    match = matching(pa.chunked_array([list(requests)], pa.string()), table["id"])
    return balancer_log(match, pa.chunked_array([list(requests.values())], pa.string()), table)


def differences(sent: int, seen: BalancerLog | None, counter: int | None, served: int | None, unsure: int = 0) -> Any:
    return reconcile(sent, seen, counter, served, unsure, has_metrics=True)["differences"]


CLEAN = [("s.1.0.m", "--", "model"), ("s.1.1.m", "--", "model"), ("s.1.2.m", "--", "model")]
RECORDS = {"s.1.2.m": "ok", "s.1.0.m": "ok", "s.1.1.m": "ok"}


def test_requests_and_rows_are_joined_by_id_in_any_order() -> None:
    rows = pa.chunked_array([["c", "a"], ["d", None]], pa.string())
    found = matching(pa.chunked_array([["a", "b"], ["c"]], pa.string()), rows)
    np.testing.assert_array_equal(found, [1, -1, 0])
    np.testing.assert_array_equal(matching(rows, pa.chunked_array([[]], pa.string())), [-1, -1, -1, -1])


def test_counts_that_are_equal_everywhere_do_not_differ() -> None:
    assert differences(3, log(RECORDS, CLEAN), 3, 3) == []


def test_a_request_that_never_connected_is_accounted_for() -> None:
    seen = log({**RECORDS, "s.1.3.m": "connection"}, CLEAN)
    assert seen.never_arrived == 1 and seen.lost == 0
    assert differences(4, seen, 3, 3) == []


def test_an_answered_request_that_the_log_lacks_is_a_difference() -> None:
    seen = log({**RECORDS, "s.1.3.m": "ok"}, CLEAN)
    assert seen.lost == 1
    assert differences(4, seen, 4, 4) == [
        "the balancer counted 4 requests, its log has 3 (-1)",
        "1 of the client's 4 requests are not in the balancer's log",
    ]


def test_what_the_balancer_answered_itself_never_reached_the_server() -> None:
    refused = [("s.1.3.m", "SC", "model"), ("s.1.4.m", "PR", "<NOSRV>"), ("s.1.5.m", "sQ", "model")]
    records = {**RECORDS, "s.1.3.m": "UNAVAILABLE", "s.1.4.m": "503", "s.1.5.m": "503"}
    seen = log(records, CLEAN + refused)
    assert (seen.own_answers, seen.cut) == (3, 0)
    assert differences(6, seen, 6, 3) == []
    assert differences(6, seen, 6, 6) == ["the balancer forwarded 3 requests, the server counted 6 (+3)"]


def test_the_server_may_have_counted_what_was_cut_or_not() -> None:
    seen = log({**RECORDS, "s.1.3.m": "timeout"}, [*CLEAN, ("s.1.3.m", "CH", "model")])
    assert (seen.own_answers, seen.cut) == (0, 1)
    assert differences(4, seen, 4, 3) == differences(4, seen, 4, 4) == []
    assert differences(4, seen, 4, 2) == ["the balancer forwarded 3 to 4 requests, the server counted 2 (-1)"]
    assert differences(4, seen, 4, 5) == ["the balancer forwarded 3 to 4 requests, the server counted 5 (+1)"]


def test_rows_without_a_record_are_counted_by_their_phase() -> None:
    extra = [("s.2.0.m", "--", "model"), ("s.2.1.w", "--", "model"), ("-", "--", "model"), ("", "--", "model")]
    seen = log(RECORDS, CLEAN + extra)
    assert seen.unmatched == {"measure": 1, "warmup": 1, "unknown": 2}
    assert differences(3, seen, 7, 7) == ["2 of the balancer's requests carry no id of this run's clients"]


def test_a_request_that_was_logged_twice_has_one_row_too_many() -> None:
    assert log(RECORDS, [*CLEAN, CLEAN[0]]).unmatched == {"measure": 1}


def test_another_user_of_the_server_shows() -> None:
    assert differences(3, log(RECORDS, CLEAN), 3, 10) == [
        "the balancer forwarded 3 requests, the server counted 10 (+7)"
    ]


def test_a_witness_that_was_not_scraped_is_missed_only_if_something_was_sent() -> None:
    assert differences(3, log(RECORDS, CLEAN), None, None) == [
        "the balancer's counters were not scraped",
        "the server's counters were not scraped",
    ]
    assert differences(0, log({}, []), None, None) == []
    assert reconcile(3, log(RECORDS, CLEAN), 3, None, 0, has_metrics=False)["differences"] == []


def test_a_direct_run_compares_client_and_server() -> None:
    assert differences(10, None, None, 10) == []
    assert differences(10, None, None, 9, unsure=1) == []
    assert differences(10, None, None, 9) == ["the client sent 10 requests, the server counted 9 (-1)"]
