"""How far a worker's clock is off, from round trips before and after the run, and how surely that is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

PINGS: Final = 32  # round trips of a measurement, of which the quickest counts
SAME_CLOCK_PINGS: Final = 5  # where only the round trip is wanted
DRIFT_MAX: Final = 500e-6  # of a clock that was not measured again: so much at most does Linux let NTP slew one


class Exchange(NamedTuple):
    """A ping and its pong: sent and received by our clock, answered by the worker's; monotonic ns."""

    sent_ns: int
    answered_ns: int
    received_ns: int

    @property
    def round_trip_ns(self) -> int:
        return self.received_ns - self.sent_ns


class Reading(NamedTuple):
    """At `at_ns` of our clock the worker's was ahead by `offset_ns`, give or take `bound_ns`."""

    at_ns: int
    offset_ns: int
    bound_ns: int
    round_trip_ns: int


def reading(exchanges: Iterable[Exchange], *, same_clock: bool) -> Reading:
    """From the quickest exchange: its answer is taken as its middle, and cannot be further off than half of it
    (F. Cristian, Probabilistic clock synchronization, 1989). One clock is not off from itself.
    """
    best = min(exchanges, key=lambda exchange: exchange.round_trip_ns)
    middle_ns = (best.sent_ns + best.received_ns) // 2
    if same_clock:
        return Reading(middle_ns, 0, 0, best.round_trip_ns)
    return Reading(middle_ns, best.answered_ns - middle_ns, (best.round_trip_ns + 1) // 2, best.round_trip_ns)


def summary(before: Reading, after: Reading | None, end_ns: int) -> dict[str, Any]:
    """A worker's clock over the run, as load.json has it, in ns: by `offset_ns` (the one before the run) its times were
    put on the common scale; `offset_bound_ns` is how far that can be off until the run's end.

    What the clock drifted meanwhile widens the bound. Without a measurement after the run (`drift_ns` null: the worker
    was lost) DRIFT_MAX stands in for it, until `end_ns` of our clock.
    """
    drift_ns: int | None = None
    if before.bound_ns == 0:  # the very clock of the master
        drift_ns = bound_ns = 0
    elif after is not None:
        drift_ns = after.offset_ns - before.offset_ns
        bound_ns = max(before.bound_ns, abs(drift_ns) + after.bound_ns)
    else:
        bound_ns = before.bound_ns + round(DRIFT_MAX * (end_ns - before.at_ns))
    return {
        "offset_ns": before.offset_ns,
        "offset_bound_ns": bound_ns,
        "round_trip_ns": before.round_trip_ns,
        "drift_ns": drift_ns,
    }
