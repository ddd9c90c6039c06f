"""How a worker judges answers: one with the same bytes as one that was found right before is not read again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof_clients.load.session import Session
from loadproof_clients.records import OK, RECORD, UNREADABLE
from loadproof_clients.spec import Load, LoadSpec, Measure
from loadproof_clients.spool import Spool
from loadproof_clients.tensors.tensor import Tensor
from loadproof_clients.transport import Exchange, Failure

RIGHT, WRONG = b"\x01\x02", b"\x01\x03"


class Fake:
    """A transport whose answers are bytes: `hides` what they are, as tritonclient does, or shows it."""

    def __init__(self, hides: bool) -> None:
        self.hides, self.read = hides, 0

    def content(self, result: Any) -> Any:
        return None if self.hides else result

    def tensors(self, result: Any) -> list[Tensor]:
        self.read += 1
        if not result:
            raise Failure(UNREADABLE, "nothing in it")
        return [Tensor("y", "UINT8", (2,), result)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close(remove=True)


def session(spool: Spool, verify: float = 1.0) -> Session:
    load = Load.model_validate({"verify": verify})
    spec = LoadSpec(run="r", url="127.0.0.1:1", model="m", load=load, measure=Measure())
    answers = [[Tensor("y", "UINT8", (2,), RIGHT)], [Tensor("y", "UINT8", (2,), WRONG)]]
    return Session(spec, 1, 2, answers, NotImplemented, spool, None)


def judged(one: Session, transport: Any, results: list[tuple[int, bytes]]) -> list[tuple[int, bool, bool]]:
    """Status, verified and correct, as recorded, of each (payload, answer)."""
    one.begin(0, 0)
    for sequence, (payload, result) in enumerate(results):
        request = one.request(0, sequence, 0, payload)
        one.leave(request)
        one.arrive(request, transport, Exchange(1).ended(2, result))
    one.spool.flush()
    rows = np.fromfile(one.spool.path, RECORD)
    return [(int(row["status"]), bool(row["verified"]), bool(row["correct"])) for row in rows]


@pytest.mark.parametrize("hides", [False, True])
def test_an_answer_is_held_to_its_own_payloads_reference_however_often_it_came(spool: Spool, hides: bool) -> None:
    transport, one = Fake(hides), session(spool)
    answers = [(0, RIGHT), (0, RIGHT), (0, WRONG), (1, WRONG), (1, RIGHT), (0, RIGHT), (0, b""), (0, RIGHT)]
    good, wrong, broken = (OK, True, True), (OK, True, False), (UNREADABLE, False, False)
    assert judged(one, transport, answers) == [good, good, wrong, good, wrong, good, broken, good]
    assert (one.ok, one.wrong, one.failed) == (5, 2, 1)
    # The two first right ones, the two wrong ones and the broken one, where a library shows what came
    assert transport.read == (8 if hides else 5)


def test_what_is_not_to_be_checked_counts_as_not_verified(spool: Spool) -> None:
    transport, one = Fake(hides=False), session(spool, verify=0.5)
    rows = judged(one, transport, [(0, RIGHT)] * 200)
    verified = [row[1] for row in rows]
    assert 50 < sum(verified) < 150 and all(row[2] == row[1] for row in rows)
