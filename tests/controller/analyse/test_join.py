"""Requests and balancer rows are joined by their ids, whatever stands in the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from loadproof import rundir
from loadproof.analyse import join
from loadproof.analyse.join import UNKNOWN, keys, matching, phase_of, worker_of
from loadproof_clients.records import PHASES, request_id
from tests.controller import synthetic


def test_a_key_tells_worker_and_phase_and_is_one_for_one() -> None:
    parts = [(worker, sequence) for worker in (0, 1, 9, 10, 255, 65_535) for sequence in (0, 7, 10, 4_294_967_295)]
    ids = [request_id("a_b-1", worker, sequence, phase) for worker, sequence in parts for phase in range(len(PHASES))]
    found = keys(pa.array(ids), "a_b-1")
    assert len(set(found.tolist())) == len(ids) and (found >= 0).all()
    assert worker_of(found).tolist() == [worker for worker, _ in parts for _ in PHASES]
    assert phase_of(found).tolist() == list(range(len(PHASES))) * len(parts)


@pytest.mark.parametrize(
    "odd",
    [
        *("", "-", None, "s", "t.1.0.m", "s.1.0", "s.1.0.mm", "s.1.0.x", "s.1.-1.m", "s.x.0.m", "s.1.0.m.", "..."),
        *("s.123456.0.m", "s.1.12345678901.m", "s.1.0.ä", "%20.1.0.m", "ss.1.0.m"),
    ],
)
def test_an_id_that_is_not_of_this_run_has_no_key_and_disturbs_no_other(odd: str | None) -> None:
    found = keys(pa.array(["s.2.5.m", odd, "s.1.0.m"]), "s")
    assert found[1] == UNKNOWN and found[[0, 2]].tolist() == keys(pa.array(["s.2.5.m", "s.1.0.m"]), "s").tolist()


def test_a_slice_of_ids_has_the_keys_of_its_own() -> None:
    ids = pa.array([f"s.1.{number}.w" for number in range(2000)])
    np.testing.assert_array_equal(keys(ids[990:1500], "s"), keys(ids, "s")[990:1500])


def test_requests_and_rows_match_in_any_order() -> None:
    rows = np.array([30, 10, UNKNOWN, 40])
    assert matching(np.array([10, 20, 30, UNKNOWN, 99]), rows).tolist() == [1, -1, 0, -1, -1]
    assert matching(np.array([1, 2]), np.empty(0, np.int64)).tolist() == [-1, -1]


def test_a_run_is_joined_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.run(tmp_path)
    whole = join.join(tmp_path)
    monkeypatch.setattr(rundir, "PIECE_ROWS", 700)
    pieces = join.join(tmp_path)
    np.testing.assert_array_equal(whole.row, pieces.row)
    ids, rows = rundir.read_requests(tmp_path, ["id"])["id"], rundir.read_balancer(tmp_path, ["id"])["id"]
    assert rows.take(pa.array(whole.row)).to_pylist() == ids.to_pylist()


def test_rows_alone_still_have_their_keys(tmp_path: Path) -> None:
    synthetic.run(tmp_path)
    (tmp_path / "requests.parquet").unlink()
    joined = join.join(tmp_path)
    assert len(joined.row) == 0 and (joined.row_keys != UNKNOWN).all()
