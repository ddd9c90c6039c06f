"""The open loop's dispatcher in process: what it does where sends are so close that it never sleeps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof_clients.load.dispatcher import BACKLOG_MAX, Dispatcher
from loadproof_clients.load.session import Session
from loadproof_clients.spec import Load, LoadSpec, Measure
from loadproof_clients.spool import Spool
from loadproof_clients.tensors.tensor import Tensor
from loadproof_clients.transport import Exchange


class Prompt:
    """A transport that has the answer as soon as it is asked; `most`: the most requests that were in flight."""

    session: Session
    connections = 1
    most = 0

    def start(self, payload: int, request_id: str, done: Any) -> None:
        self.most = max(self.most, self.session.in_flight)
        now_ns = time.monotonic_ns()
        done(Exchange(now_ns).ended(now_ns, b""))

    def content(self, result: Any) -> Any:
        return result

    def tensors(self, result: Any) -> list[Tensor]:
        return []


@pytest.mark.parametrize(("limit", "most"), [(10_000, BACKLOG_MAX), (500, 250)])
def test_answers_are_read_while_sends_leave_it_no_time(tmp_path: Path, limit: int, most: int) -> None:
    """At 20,000 requests/s so many may wait to be read: none is unsent because nobody looked at another's answer."""
    wanted = {"arrivals": "constant", "rate_rps": 20_000, "clients": 1, "verify": 0, "max_in_flight": limit}
    load = Load.model_validate(wanted)
    measure = Measure.model_validate({"warmup_s": 0, "duration_s": 0.3, "drain_s": 5})
    transport: Any = Prompt()
    spool = Spool(tmp_path / "spool")
    spec = LoadSpec(run="r", url="127.0.0.1:1", model="m", load=load, measure=measure)
    session = transport.session = Session(spec, 1, 1, [], lambda: transport, spool, None)
    session.clients.append(transport)
    session.begin(time.monotonic_ns(), 0)
    session.go.set()
    Dispatcher(session, np.zeros(0, np.int64)).run()
    assert session.ok == session.sent > 2 * BACKLOG_MAX and session.unsent == 0
    assert transport.most <= most + 1
    spool.close(remove=True)
