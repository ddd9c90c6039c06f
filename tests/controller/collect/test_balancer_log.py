"""The request log's parser, on lines as HAProxy writes them and on what else a file may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadproof.collect import balancer_log
from loadproof.collect.balancer_log import Tally, parse, pieces, read
from loadproof.rundir import BALANCER

GOOD = b"1795334949984272 1795334950035409 1795334950035500 200 -- 0 0 server r001.1.17.m"
NO_ANSWER = b"1795334950044192 - 1795334950146035 -1 CD 0 0 server r001.2.5.m"
NO_SERVER = b"1795334950044192 - 1795334950044192 503 SC 0 -1 <NOSRV> -"
UNREAD = b"- - 1795334950245742 400 PR 0 -1 <NOSRV> -"


def test_a_line_becomes_a_row_of_the_run_directorys_schema() -> None:
    table, tally = parse(GOOD)
    assert tally == Tally(rows=1)
    assert table.schema == BALANCER
    assert table.to_pylist() == [
        {
            "id": "r001.1.17.m",
            "accepted_us": 1795334949984272,
            "headers_us": 1795334950035409,
            "end_us": 1795334950035500,
            "status": 200,
            "termination": "--",
            "retries": 0,
            "queue_ms": 0,
            "server": "server",
        }
    ]


def test_what_is_missing_is_null_and_an_absent_id_is_empty() -> None:
    rows = parse(b"\n".join([NO_ANSWER, NO_SERVER]))[0].to_pylist()
    assert [(row["headers_us"], row["status"], row["termination"]) for row in rows] == [
        (None, -1, "CD"),
        (None, 503, "SC"),
    ]
    assert [(row["id"], row["server"], row["queue_ms"]) for row in rows] == [
        ("r001.2.5.m", "server", 0),
        ("", "<NOSRV>", -1),
    ]


def test_unread_requests_are_counted_and_are_no_rows() -> None:
    table, tally = parse(b"\n".join([UNREAD, GOOD, UNREAD]))
    assert (table.num_rows, tally) == (1, Tally(rows=1, unread=2))


def test_the_rings_own_count_of_dropped_lines_is_taken() -> None:
    assert parse(b"\n".join([b"1 event dropped", GOOD, b"47450 events dropped"]))[1] == Tally(rows=1, dropped=47451)


BAD = {
    "one word": b"garbage",
    "endless": b"x" * 100_000,
    "words for numbers": b"one two three four five six seven eight nine",
    "a field too many": GOOD + b" more",
    "a number too large": GOOD.replace(b"200", b"99999"),
    "a number far too large": GOOD.replace(b"1795334949984272", b"9" * 25),
    "no end": GOOD.replace(b"1795334950035500", b"-"),
    "no text": GOOD.replace(b"server", b"\xff\xfe"),
    "a zero byte": GOOD.replace(b"200", b"2\x000"),
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_bad_line_is_counted_and_spares_its_neighbours(line: bytes) -> None:
    table, tally = parse(b"\n".join([GOOD, line, NO_ANSWER]))
    assert table["id"].to_pylist() == ["r001.1.17.m", "r001.2.5.m"]
    assert tally == Tally(rows=2, bad=1)


def test_any_bytes_are_read_without_an_error() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        lines = bytearray(b"\n".join([GOOD, NO_ANSWER, UNREAD, NO_SERVER] * 3))
        for position in random.integers(0, len(lines), 5):
            lines[position] = random.integers(0, 256)
        table, tally = parse(bytes(lines))
        assert table.num_rows == tally.rows >= 1


def test_a_file_is_read_in_pieces_that_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "requests.log"
    lines = [GOOD.replace(b".17.", b".%d." % number) for number in range(500)]
    log.write_bytes(b"".join(line + b"\n" for line in [*lines, UNREAD]))
    whole, tally = read(log)
    assert tally == Tally(rows=500, unread=1)
    monkeypatch.setattr(balancer_log, "PIECE_BYTES", 1000)
    assert len(list(pieces(log))) > 10
    again, tally_again = read(log)
    assert (again.to_pylist(), tally_again) == (whole.to_pylist(), tally)


def test_a_last_line_that_was_cut_is_bad(tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    log.write_bytes(GOOD + b"\n" + GOOD[:-4])
    assert read(log)[1] == Tally(rows=1, bad=1)


def test_an_empty_log_is_an_empty_table(tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    log.write_bytes(b"")
    table, tally = read(log)
    assert (table.num_rows, table.schema, tally) == (0, BALANCER, Tally())
