"""The sweet spot: most throughput within the bound, of what can be trusted; pure, on made-up runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadproof import analyse
from loadproof.analyse import RunSummary, sweet_spot
from tests.controller import synthetic
from tests.controller.summaries import run_summary

P95 = {"sweet_spot": {"p95_ms": 20.0}}


def run(streams: int, rate: float | None, p95: float, high: float | None = None, **more: Any) -> RunSummary:
    spec = {"server": {"model": "m", "streams": streams}, "load": {"clients": 4, "batch": 1, "shapes": {}}}
    latency = {"p50": 1.0, "p90": 2.0, "p95": p95}
    found = {"name": f"streams={streams}", "spec": spec, "throughput_ips": rate, "requests": {"ok": 100}}
    return run_summary(**{**found, "latency_ms": latency | {"high": latency | {"p95": high or p95}}, **more})


def best_of(plan: dict[str, Any], *runs: RunSummary) -> str | None:
    found = sweet_spot.answer(plan, runs)
    assert found is not None
    return found.best


def test_the_most_throughput_within_the_limit_is_best() -> None:
    assert best_of(P95, run(1, 100, 5), run(2, 180, 12), run(3, 250, 30)) == "streams=2"
    assert best_of(P95, run(1, 100, 21), run(2, 180, 22)) is None
    assert best_of({}, run(1, 100, 5), run(2, 180, 12), run(3, 250, 30)) == "streams=3"


def test_the_bound_decides_and_not_the_percentile() -> None:
    assert best_of(P95, run(1, 100, 5), run(2, 180, 19, high=21)) == "streams=1"
    unbounded = run(2, 180, 5, latency_ms={"p50": 1.0, "p90": 2.0, "p95": 5.0})
    assert best_of(P95, run(1, 100, 5), unbounded) == "streams=1"


def test_what_cannot_be_trusted_or_breaks_another_limit_is_never_best() -> None:
    assert best_of(P95, run(1, 100, 5), run(2, 180, 12, verdict="INVALID")) == "streams=1"
    errors = {"metric": "error_rate", "limit": 0.0, "value": 0.1, "ok": False}
    assert best_of(P95, run(1, 100, 5), run(2, 180, 12, slo=[errors])) == "streams=1"
    own = {"metric": "p95_ms", "limit": 10.0, "value": 12.0, "ok": False}  # the sweet spot's limit is another
    assert best_of(P95, run(1, 100, 5), run(2, 180, 12, slo=[own])) == "streams=2"
    none = run(2, None, 12, verdict="INVALID")
    assert best_of(P95, run(1, 100, 5), none) == "streams=1"


def test_of_repeats_each_has_to_keep_the_limit_and_the_median_counts() -> None:
    repeats = [run(2, rate, 10, high=high, name=f"streams=2 #{n}") for n, rate, high in ((1, 150, 12), (2, 210, 19))]
    found = sweet_spot.answer(P95, [run(1, 100, 5), *repeats])
    assert found is not None
    two = found.configurations[1]
    assert (two.name, two.throughput_ips, two.latency_high_ms) == ("streams=2", 180, 19)
    assert two.runs == ["streams=2 #1", "streams=2 #2"] and found.best == "streams=2"
    slow = run(2, 210, 10, high=20.5, name="streams=2 #2")
    assert best_of(P95, run(1, 100, 5), repeats[0], slow) == "streams=1"


def test_the_limit_comes_from_its_section_or_else_from_the_slo() -> None:
    assert sweet_spot.limit_of({"slo": {"p50_ms": 1, "p99_ms": 50, "error_rate": 0}}) == ("p99_ms", 50)
    assert sweet_spot.limit_of({"slo": {"p99_ms": 50}, "sweet_spot": {"p95_ms": 10}}) == ("p95_ms", 10)
    assert sweet_spot.limit_of({"slo": {"error_rate": 0}}) == (None, None)


def test_without_a_limit_the_highest_percentile_that_all_have_is_shown() -> None:
    found = sweet_spot.answer({}, [run(1, 100, 5), run(2, 180, 12)])
    assert found is not None and (found.metric, found.limit) == ("p95_ms", None)


def test_the_front_has_what_nothing_beats_in_both() -> None:
    found = sweet_spot.answer(P95, [run(1, 100, 5), run(2, 90, 8), run(3, 180, 12), run(4, 180, 13), run(5, 250, 11)])
    assert found is not None
    assert [one.front for one in found.configurations] == [True, False, False, False, True]


@pytest.mark.parametrize("limit", [4.0, 6.0, 12.0, 30.0])
def test_whatever_the_limit_the_best_lies_on_the_front(limit: float) -> None:
    found = sweet_spot.answer({}, [run(n, 100 * n - 7 * n * n, 3.0 * n + n % 3) for n in range(1, 9)])
    assert found is not None
    chosen = sweet_spot.best(found.configurations, limit)
    assert chosen is None or chosen.front


def test_settings_are_what_differs() -> None:
    found = sweet_spot.answer(P95, [run(1, 100, 5), run(2, 180, 12)])
    assert found is not None
    assert [one.settings for one in found.configurations] == [{"server.streams": 1}, {"server.streams": 2}]


def test_one_configuration_or_a_search_has_no_sweet_spot() -> None:
    assert sweet_spot.answer(P95, [run(1, 100, 5), run(1, 110, 5)]) is None
    assert sweet_spot.answer({"search": {"key": "load.clients"}}, [run(1, 100, 5), run(2, 110, 5)]) is None


def test_the_summary_of_a_campaign_has_it(tmp_path: Path) -> None:
    runs = [(f"clients={n}", synthetic.make(n, of=synthetic.spec(clients=n))) for n in (2, 4)]
    summary = analyse.campaign(synthetic.campaign(tmp_path, runs))
    assert summary.sweet_spot is not None
    assert summary.sweet_spot.best == "clients=4" and summary.sweet_spot.metric == "p99_ms"
    assert summary.sweet_spot.configurations[0].settings == {"load.clients": 2}
