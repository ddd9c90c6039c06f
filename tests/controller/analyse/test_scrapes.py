"""The growth of counters between scrapes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from loadproof import rundir
from loadproof.analyse.scrapes import Edges, Scrapes

A, B = '{"method": "ModelInfer", "version": "1"}', '{"method": "ModelInfer", "version": "2"}'
OTHER = '{"method": "ModelReady", "version": "1"}'


def scrapes(rows: list[tuple[str, str, str, float, float]]) -> Scrapes:
    columns = dict(zip(rundir.SAMPLES.names, map(list, zip(*rows, strict=True)), strict=True))
    return Scrapes(pa.table(columns).cast(rundir.SAMPLES), "server")


ROWS = [
    ("server", "up", "{}", -1.0, 1.0),
    ("server", "requests", A, 0.0, 10.0),
    ("server", "requests", OTHER, 0.0, 1000.0),
    ("balancer", "requests", A, 0.0, 7.0),
    ("server", "requests", A, 2.0, 30.0),
    ("server", "requests", B, 2.0, 5.0),
    ("server", "requests", OTHER, 2.0, 2000.0),
    ("server", "requests", A, 4.0, 60.0),
    ("server", "requests", B, 4.0, 9.0),
    ("balancer", "requests", A, 5.0, 500.0),
]


def test_growth_runs_from_the_first_to_the_last_scrape_over_all_series_that_have_the_labels() -> None:
    # Neither series was there at the first scrape, at -1 s: they grew from nothing.
    assert scrapes(ROWS).growth("requests", Edges(), method="ModelInfer") == 69.0


def test_growth_between_two_moments_takes_the_scrapes_nearest_to_them() -> None:
    assert scrapes(ROWS).growth("requests", Edges(0.4, 2.9), method="ModelInfer") == 25.0


def test_what_was_never_seen_or_only_once_did_not_grow_by_zero_but_is_unknown() -> None:
    assert scrapes(ROWS).growth("requests", Edges(), method="ModelStreamInfer") is None
    assert scrapes(ROWS).growth("nothing", Edges()) is None
    assert scrapes(ROWS[:1]).growth("up", Edges()) is None


def test_a_histogram_has_its_buckets_in_order_and_adds_up_its_series() -> None:
    rows = [
        ("server", "us_bucket", f'{{"le": "{bound}", "version": "{version}"}}', time, value * time)
        for time in (0.0, 1.0)
        for version in (1, 2)
        for bound, value in (("+Inf", 9.0), ("100.0", 6.0), ("18.0", 2.0))
    ]
    upper, grown = scrapes(rows).histogram("us", Edges())
    np.testing.assert_array_equal(upper, [18, 100, np.inf])
    np.testing.assert_array_equal(grown, [4, 12, 18])
    assert [len(array) for array in scrapes(ROWS).histogram("us", Edges())] == [0, 0]


def test_a_counter_that_went_down_began_again_and_has_grown_by_what_it_shows() -> None:
    rows = [
        ("server", "requests", A, time, value) for time, value in ((0.0, 10.0), (1.0, 30.0), (2.0, 4.0), (3.0, 9.0))
    ]
    seen = scrapes(rows)
    assert seen.growth("requests", Edges()) == 20 + 4 + 5 and seen.growth("requests", Edges(2, 3)) == 5
    assert seen.restarted("requests") and not seen.restarted("nothing")
    assert not scrapes(ROWS).restarted("requests")
