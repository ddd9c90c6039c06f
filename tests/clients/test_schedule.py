"""The open loop's plan: when requests are due and whose they are, and that Poisson arrivals are what they claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError
from scipy import stats

from loadproof_clients.schedule import BLOCK, Block, TraceError, part, planned, read_trace
from loadproof_clients.spec import Load, LoadSpec, Measure

CLIENTS = 12
SIGNIFICANCE = 0.001  # a right plan fails at one seed in a thousand: the seeds are chosen once


def whole(load: dict[str, Any], duration_s: float = 10.0, **more: Any) -> Block:
    """All of a plan's requests (no warm-up)."""
    blocks = list(planned(Load(clients=CLIENTS, **load), Measure(warmup_s=0, duration_s=duration_s), **more))
    return Block(np.concatenate([b.due_ns for b in blocks]), np.concatenate([b.client for b in blocks]))


def of_worker(number: int, workers: int, rate_rps: float, duration_s: float, seed: int) -> npt.NDArray[np.int64]:
    load = Load(arrivals="poisson", rate_rps=rate_rps, clients=CLIENTS, seed=seed)
    mine = CLIENTS // workers
    blocks = part(planned(load, Measure(warmup_s=0, duration_s=duration_s)), number * mine, mine)
    return np.concatenate([block.due_ns for block in blocks])


def parts(workers: int, rate_rps: float = 500, seed: int = 1) -> list[npt.NDArray[np.int64]]:
    return [of_worker(number, workers, rate_rps, 60, seed) for number in range(workers)]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_poisson_gaps_of_each_worker_are_exponential(workers: int, seed: int) -> None:
    """Kolmogorov and Smirnov's test against the exponential of the worker's share of the rate."""
    for due_ns in parts(workers, seed=seed):
        gaps_s = np.diff(due_ns, prepend=0) / 1e9
        assert stats.kstest(gaps_s, stats.expon(scale=workers / 500).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_poisson_gaps_of_each_worker_are_independent(workers: int, seed: int) -> None:
    """Ranks of neighbouring gaps do not correlate, and counts in 0.1 s spread as Poisson's do (variance = mean)."""
    for due_ns in parts(workers, seed=seed):
        gaps = np.diff(due_ns)
        assert stats.spearmanr(gaps[:-1], gaps[1:]).pvalue > SIGNIFICANCE
        counts, _ = np.histogram(due_ns / 1e9, bins=600, range=(0, 60))
        dispersion = float(((counts - counts.mean()) ** 2).sum() / counts.mean())
        tail = stats.chi2(len(counts) - 1).cdf(dispersion)
        assert SIGNIFICANCE / 2 < tail < 1 - SIGNIFICANCE / 2


def test_the_tests_of_poisson_arrivals_see_arrivals_that_are_not() -> None:
    even = np.diff(whole({"arrivals": "constant", "rate_rps": 500.0}).due_ns) / 1e9
    assert stats.kstest(even, stats.expon(scale=1 / 500).cdf).pvalue < 1e-9
    in_turn = whole({"arrivals": "poisson", "rate_rps": 500.0}, 60).due_ns[::2]  # what a round of two workers would get
    assert stats.kstest(np.diff(in_turn) / 1e9, stats.expon(scale=2 / 500).cdf).pvalue < 1e-9


@pytest.mark.parametrize("workers", [2, 4])
def test_poisson_arrivals_of_different_workers_do_not_know_each_other(workers: int) -> None:
    counts = [np.histogram(due_ns / 1e9, bins=600, range=(0, 60))[0] for due_ns in parts(workers)]
    for other in counts[1:]:
        assert stats.spearmanr(counts[0], other).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("seed", range(4))
def test_poisson_count_is_that_of_the_rate(seed: int) -> None:
    assert abs(len(of_worker(0, 1, 500, 60, seed)) - 30_000) < 3.3 * 30_000**0.5


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_the_union_of_the_workers_is_the_plan(workers: int, arrivals: str) -> None:
    load = Load.model_validate({"arrivals": arrivals, "rate_rps": 2000.0, "clients": CLIENTS})
    measure = Measure(warmup_s=1, duration_s=4)
    mine = CLIENTS // workers
    shares = [list(part(planned(load, measure), n * mine, mine)) for n in range(workers)]
    rows = sorted((int(d), int(c)) for share in shares for b in share for d, c in zip(b.due_ns, b.client, strict=True))
    assert rows == [(int(d), int(c)) for b in planned(load, measure) for d, c in zip(b.due_ns, b.client, strict=True)]


def test_each_poisson_client_gets_its_share() -> None:
    shares = np.bincount(whole({"arrivals": "poisson", "rate_rps": 5000.0}).client, minlength=CLIENTS)
    assert stats.chisquare(shares).pvalue > SIGNIFICANCE


def test_another_seed_is_another_plan_and_the_same_seed_the_same() -> None:
    first, again, other = (whole({"arrivals": "poisson", "rate_rps": 100.0, "seed": seed}) for seed in (1, 1, 2))
    assert (first.due_ns == again.due_ns).all()
    assert (first.client == again.client).all()
    assert not set(first.due_ns.tolist()) & set(other.due_ns.tolist())


def test_each_repeat_of_a_poisson_load_has_arrivals_of_its_own_and_others_have_none() -> None:
    first, again, second, other = (
        whole({"arrivals": "poisson", "rate_rps": 100.0, "seed": seed}, repeat=repeat)
        for seed, repeat in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    assert (first.due_ns == again.due_ns).all()
    for one in (first, other):
        assert not set(one.due_ns.tolist()) & set(second.due_ns.tolist())
    constant = [whole({"arrivals": "constant", "rate_rps": 100.0}, repeat=repeat) for repeat in (1, 2)]
    assert (constant[0].due_ns == constant[1].due_ns).all() and (constant[0].client == constant[1].client).all()


@pytest.mark.parametrize(
    "load", [{"arrivals": "poisson", "rate_rps": 900.0}, {"arrivals": "constant", "rate_rps": 900.0}]
)
def test_a_longer_run_only_appends(load: dict[str, Any]) -> None:
    short, long = whole(load, 5), whole(load, 20)
    assert len(long.due_ns) > 3 * BLOCK
    at = len(short.due_ns)
    assert (short.due_ns == long.due_ns[:at]).all()
    assert (short.client == long.client[:at]).all()
    assert len(long.due_ns) > 3 * at


def test_constant_arrivals_start_at_once_and_are_even() -> None:
    due_ns, client = whole({"arrivals": "constant", "rate_rps": 3.0}, 2)
    assert due_ns.tolist() == [0, 333333333, 666666667, 1_000_000_000, 1333333333, 1666666667]
    assert client.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(whole({"arrivals": "constant", "rate_rps": 0.1}, 10).due_ns) == 1
    assert len(whole({"arrivals": "constant", "rate_rps": 1000.0}, 9.0).due_ns) == 9000


def test_steps_follow_each_other_pause_and_end() -> None:
    due_ns, client = whole({"arrivals": "steps", "steps": [(2.0, 1.0), (0.0, 1.5), (4.0, 0.5), (1.0, 1.0)]})
    assert (due_ns / 1e9).tolist() == [0, 0.5, 2.5, 2.75, 3.0]
    assert client.tolist() == [0, 1, 2, 3, 4]


def test_a_step_shorter_than_its_gap_hands_the_rest_on() -> None:
    tenths = whole({"arrivals": "steps", "steps": [(10.0, 0.1)] * 10 + [(0.0, 1.0)]}).due_ns
    assert (tenths / 1e8).round(6).tolist() == list(range(10))
    halves = whole({"arrivals": "steps", "steps": [(0.5, 1.0), (1.0, 0.5), (2.0, 1.0)]}).due_ns
    assert (halves / 1e9).tolist() == [0, 1.5, 2.0]


def test_what_lies_beyond_the_window_is_cut() -> None:
    assert whole({"arrivals": "steps", "steps": [(10.0, 100.0)]}, 1).due_ns.max() < 1_000_000_000
    trace_ns = np.array([0, 999_999_999, 1_000_000_000, 5_000_000_000])
    assert whole({"arrivals": "trace", "trace": "x"}, 1, trace_ns=trace_ns).due_ns.tolist() == [0, 999_999_999]


def test_a_trace_is_read_with_comments_and_simultaneous_requests(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("# seconds\n0\n0.5 # two at once\n0.5\n\n1e1\n")
    assert read_trace(file).tolist() == [0, 500_000_000, 500_000_000, 10_000_000_000]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0\n\nabc\n", "line 3: 'abc' is not a number of seconds"),
        ("1\n0.5\n", "line 2: 0.5 s after 1 s: sort the times"),
        ("-1\n", "line 1: -1 s: times count from T0"),
        ("0\nnan\n", "line 2: nan s: times count from T0"),
        ("# nothing\n", "has no times"),
        ("\xff\xfe", "is not text"),
    ],
)
def test_a_bad_trace_is_told_by_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "trace"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(TraceError) as told:
        read_trace(file)
    assert str(told.value).startswith(f"load.trace: {file}")
    assert complaint in str(told.value)


def test_an_absent_trace_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"load\.trace: .*absent: No such file"):
        read_trace(tmp_path / "absent")


@pytest.mark.parametrize(
    ("load", "key"),
    [
        ({"arrivals": "constant", "rate_rps": 100_000.0}, "load.rate_rps"),
        ({"arrivals": "steps", "steps": [[1000.0, 60_000.0]]}, "load.steps"),
    ],
)
def test_a_plan_of_too_many_requests_is_refused(load: dict[str, Any], key: str) -> None:
    measure = {"duration_s": 600.0}
    with pytest.raises(ValidationError, match=rf"{key}: 6\d,\d+,000 requests are over 50,000,000"):
        LoadSpec.model_validate({"run": "r", "url": "h:1", "model": "m", "load": load, "measure": measure})
