import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loadproof_clients import spool
from loadproof_clients.records import RECORD, UNKNOWN_NS
from loadproof_clients.spool import Receiver, Spool


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool")
    yield opened
    opened.close(remove=False)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    opened = Receiver(tmp_path / "worker-1.rec")
    yield opened
    opened.close()


def add(records: Spool, first: int, count: int) -> None:
    for sequence in range(first, first + count):
        records.add(sequence, sequence, sequence + 2, sequence + 5, sequence, 3, 1, 0, 2, True, sequence % 2 == 0)


def sequences(path: Path) -> list[int]:
    return [int(n) for n in np.fromfile(path, RECORD)["sequence"]]


def test_a_row_is_a_record_field_by_field(records: Spool) -> None:
    fields = (-1, 2**40, UNKNOWN_NS, 2**41, 2**32 - 1, 65535, 65534, 1001, 3, True, False)
    records.add(*fields)
    records.flush()
    assert np.fromfile(records.path, RECORD)[0].item() == fields


def test_chunks_that_get_lost_doubled_or_late_arrive_once_and_in_order(
    tmp_path: Path, records: Spool, receiver: Receiver
) -> None:
    wire, chance, now_s = [], random.Random(1), 0.0
    for turn in range(10_000):
        if turn < 100:
            add(records, turn * 7, 7)
        elif records.delivered:
            break
        records.flush()
        now_s += 1
        wire += [(chunk.number, records.read(chunk)) for chunk in records.due(now_s, resend_s=3)]
        chance.shuffle(wire)
        for number, data in wire[: len(wire) // 2]:
            if chance.random() < 0.7:
                expected = receiver.receive(number, data)
                if chance.random() < 0.7:  # acknowledgements get lost too
                    records.acknowledge(expected)
        wire = wire[len(wire) // 2 :]
    assert records.delivered
    assert sequences(tmp_path / "worker-1.rec") == list(range(700))


def test_an_unacknowledged_chunk_is_sent_again_only_after_a_while(records: Spool) -> None:
    add(records, 0, 3)
    assert not records.delivered
    records.flush()
    assert [chunk.number for chunk in records.due(10, resend_s=5)] == [0]
    assert records.due(14, resend_s=5) == []
    assert [chunk.number for chunk in records.due(15, resend_s=5)] == [0]
    records.acknowledge(1)
    assert records.due(99, resend_s=5) == []
    assert records.delivered


def test_a_chunk_has_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Spool, receiver: Receiver
) -> None:
    monkeypatch.setattr(spool, "CHUNK_BYTES_MAX", 10 * RECORD.itemsize)
    add(records, 0, 25)
    records.flush()
    chunks = records.due(0, resend_s=5)
    assert [chunk.size // RECORD.itemsize for chunk in chunks] == [10, 10, 5]
    for chunk in chunks:
        receiver.receive(chunk.number, records.read(chunk))
    assert sequences(tmp_path / "worker-1.rec") == list(range(25))


def test_the_rest_of_a_lost_worker_is_recovered_without_doubles_and_without_a_torn_row(
    tmp_path: Path, records: Spool, receiver: Receiver
) -> None:
    add(records, 0, 5)
    records.flush()
    [chunk] = records.due(0, resend_s=5)
    receiver.receive(chunk.number, records.read(chunk))
    add(records, 5, 4)
    records.flush()
    with records.path.open("ab") as file:
        file.write(b"torn")
    assert receiver.recover(records.path) == 4
    assert receiver.rows == 9
    assert sequences(tmp_path / "worker-1.rec") == list(range(9))


def test_data_that_is_not_whole_records_is_refused(receiver: Receiver) -> None:
    with pytest.raises(ValueError, match="not whole records"):
        receiver.receive(0, b"x" * (RECORD.itemsize + 1))


def test_the_file_goes_when_it_is_delivered_and_stays_when_not(tmp_path: Path) -> None:
    delivered, kept = Spool(tmp_path / "a"), Spool(tmp_path / "b")
    delivered.close(remove=True)
    kept.close(remove=False)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
