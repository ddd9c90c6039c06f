"""Is it true? Loadproof's figures beside the log of the server that it measured, and beside h2load's."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.truth.cells import Cell, measure, nearest_rank
from tests.truth.losses import LOSSES, WRONG, Aftermath, Loss, lose
from tests.truth.session import LOADPROOF, ROOT, Outcome, finish, join, loadproof, truth_server

# All of them are in scripts/prove.
CELLS: Final = [
    Cell("constant", "open", "grpc"),
    Cell("constant", "closed", "rest", "tritonclient"),
    Cell("bimodal", "closed", "grpc", "tritonclient"),
    Cell("bimodal", "open", "rest"),
    Cell("stalling", "closed", "rest"),
]
LIES: Final = ("error", "wrong", "short", "garbage", "drop", "cut")
# Each alone, in one protocol or the other; all in turn, in both.
TOLD: Final = [
    *(((lie,), protocol) for lie, protocol in zip(LIES, ("grpc", "rest") * 3, strict=True)),
    *((LIES, protocol) for protocol in ("grpc", "rest")),
]
LOST: Final = [
    (loss, protocol)
    for loss, protocol in itertools.product(LOSSES, ("grpc", "rest"))
    if loss.name == "lies" or (protocol == "grpc" and loss.victim)
]
AT_ONCE: Final = 3  # runs whose times do not matter are run side by side


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_client_is_never_quicker_than_the_truth_and_adds_little_beside_h2load(cell: Cell, tmp_path: Path) -> None:
    """Each request: client >= truth (asserted where they are joined). The wanted 0.5 ms and 5 % are scripts/prove's, on
    a quiet machine; what a loaded one holds is a relation between the two clients of one session.
    """
    reading = measure(cell, tmp_path, duration_s=3, rounds=1)
    assert all(run["requests"]["ok"] == len(joined.client_ms) for run, joined in zip_rounds(reading))
    added_ms, floor_ms = reading.added_p50_ms, reading.floor_p50_ms
    assert added_ms < 5 * floor_ms + 1, f"adds {added_ms:.2f} ms, h2load {floor_ms:.2f} ms"


def zip_rounds(reading: Any) -> Iterator[tuple[Any, Any]]:
    return zip(reading.runs, reading.rounds, strict=True)


def test_the_stall_of_the_readme_is_seen_as_it_was(tmp_path: Path) -> None:
    with truth_server(tmp_path / "log", "--delay-ms", "8", "--stall-ms", "200") as server:
        out = tmp_path / "out"
        command = [*LOADPROOF, "run", "plans/stall.toml", "--out", str(out), "--set", "measure.duration_s=8"]
        command += ["--set", f'server.address="{server.grpc}"', "--set", f'server.rest_address="{server.rest}"']
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        outcome = finish(process, out)
        truth_ms = join(outcome, server).due_ms
    assert outcome.code == 0, outcome.output
    said = outcome.run["latency_ms"]
    for name, share in (("p95", 0.95), ("p99", 0.99)):
        assert said[name] == pytest.approx(nearest_rank(truth_ms, share), rel=0.15), (name, outcome.output)
    assert said["p95"] > 90 and said["p99"] > 160  # a closed loop would say 10 and 20


@dataclass(frozen=True)
class Told:
    outcome: Outcome
    visits: dict[str, dict[str, Any]]


def told(lies: tuple[str, ...], protocol: str, place: Path) -> Told:
    """A closed loop, so that no other request is on the connection that a lie cuts."""
    with truth_server(place / "log", "--delay-ms", "5", "--every", "7", "--lies", *lies) as server:
        load = {"protocol": protocol, "clients": 4, "transport": "wire" if len(lies) > 1 else "tritonclient"}
        outcome = loadproof(server, place / "out", load, {"warmup_s": 0.5, "duration_s": 1.5, "drain_s": 1})
        return Told(outcome, {visit["id"]: visit for visit in server.visits()})


@pytest.fixture(scope="module")
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield pool


@pytest.fixture(scope="module")
def all_told(
    side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[tuple[str, ...], str], Future[Told]]:
    place = tmp_path_factory.mktemp
    return {
        (lies, protocol): side_by_side.submit(told, lies, protocol, place(f"{'-'.join(lies)}-{protocol}"))
        for lies, protocol in TOLD
    }


@pytest.mark.parametrize(
    ("lies", "protocol"), TOLD, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_every_lie_is_counted_and_makes_the_run_invalid(
    all_told: dict[tuple[tuple[str, ...], str], Future[Told]], lies: tuple[str, ...], protocol: str
) -> None:
    result = all_told[lies, protocol].result()
    run, rows = result.outcome.run, result.outcome.requests().to_pylist()
    lied = {name: visit["did"] for name, visit in result.visits.items() if visit["did"] != "ok"}
    assert set(lied.values()) == set(lies)
    assert result.outcome.code == 4 and run["verdict"] == "INVALID"
    for kind, of_kind in (("wrong", set(WRONG)), ("failed", set(LIES) - set(WRONG))):
        in_window = [name for name, did in lied.items() if did in of_kind and name.endswith(".m")]
        assert run["requests"][kind] == len(in_window)
        assert (f"{kind}_answers" in [reason["code"] for reason in run["reasons"]]) == bool(in_window)
    assert {row["id"] for row in rows if row["status"] != "ok"} == {n for n, did in lied.items() if did not in WRONG}
    assert {row["id"] for row in rows if row["verified"] and not row["correct"]} == {
        name for name, did in lied.items() if did in WRONG
    }


@pytest.fixture(scope="module")
def aftermath(
    side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Aftermath]:
    futures = {
        (loss.name, protocol): side_by_side.submit(lose, loss, protocol, tmp_path_factory.mktemp("loss"), 250, 4)
        for loss, protocol in LOST
    }
    return lambda name, protocol: futures[name, protocol].result()


@pytest.mark.parametrize(("loss", "protocol"), LOST, ids=str)
def test_of_a_thousand_requests_cut_or_killed_each_has_a_name(
    aftermath: Callable[[str, str], Aftermath], loss: Loss, protocol: str
) -> None:
    """Over ten thousand of them, in scripts/prove."""
    found = aftermath(loss.name, protocol)
    assert found.problems() == [], found.accounts
    assert sum(count for name, count in found.accounts.items() if name != "answered right") > 0
