"""A worker's clock is known to within half a round trip, and what it drifts meanwhile is not hidden."""

from __future__ import annotations

import random

import pytest

from loadproof_clients.load.clocks import DRIFT_MAX, Exchange, Reading, reading, summary

AHEAD_NS = 100_000_000_000


def exchange(sent_ns: int, there_ns: int, back_ns: int, ahead_ns: int = AHEAD_NS) -> Exchange:
    return Exchange(sent_ns, sent_ns + there_ns + ahead_ns, sent_ns + there_ns + back_ns)


def test_the_quickest_of_many_counts_and_the_truth_lies_within_its_bound() -> None:
    draw = random.Random(1)
    for _ in range(200):
        ways_ns = [(draw.randrange(1, 2_000_000), draw.randrange(1, 2_000_000)) for _ in range(32)]
        exchanges = [exchange(number * 5_000_000, *way) for number, way in enumerate(ways_ns)]
        found = reading(exchanges, same_clock=False)
        assert found.round_trip_ns == min(map(sum, ways_ns))
        assert abs(found.offset_ns - AHEAD_NS) <= found.bound_ns <= (found.round_trip_ns + 1) // 2


@pytest.mark.parametrize(("there_ns", "back_ns"), [(0, 9), (9, 0), (9, 9), (0, 0)])
def test_a_one_sided_way_is_within_the_bound_too(there_ns: int, back_ns: int) -> None:
    found = reading([exchange(1000, there_ns, back_ns)], same_clock=False)
    assert abs(found.offset_ns - AHEAD_NS) <= found.bound_ns


def test_one_clock_is_not_off_from_itself() -> None:
    found = reading([exchange(0, 300, 100, ahead_ns=0)], same_clock=True)
    assert (found.offset_ns, found.bound_ns, found.round_trip_ns) == (0, 0, 400)
    told = summary(found, None, 10**12)
    assert told == {"offset_ns": 0, "offset_bound_ns": 0, "round_trip_ns": 400, "drift_ns": 0}


def test_drift_widens_the_bound_so_that_it_holds_until_the_end() -> None:
    before, after = Reading(0, 5_000, 300, 600), Reading(10**10, 5_900, 200, 400)
    assert summary(before, after, 10**10) == {
        "offset_ns": 5_000,
        "offset_bound_ns": 1_100,
        "round_trip_ns": 600,
        "drift_ns": 900,
    }
    steady = Reading(10**10, 5_000, 100, 200)
    assert summary(before, steady, 10**10)["offset_bound_ns"] == 300


def test_a_clock_that_was_not_read_again_may_have_drifted_as_fast_as_linux_lets_it() -> None:
    told = summary(Reading(0, 5_000, 300, 600), None, 10**10)
    assert told["offset_bound_ns"] == 300 + DRIFT_MAX * 10**10 and told["drift_ns"] is None
