"""The master's stages, without Locust: a runner and workers of the test's own, which answer as real ones do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from loadproof_clients.load import coordinator as stages
from loadproof_clients.load import messages
from loadproof_clients.load.authentication import Authenticator
from loadproof_clients.load.coordinator import Coordinator, Settings
from loadproof_clients.load.inbox import Inbox
from loadproof_clients.load.run_state import Phase, RunState, Stage
from loadproof_clients.spec import Load, LoadSpec, Measure

Handler = Callable[[Any, Any], None]


class Runner:
    """Locust's master runner as far as it is used; what is sent to a worker is answered by it, or by `instead`."""

    master_bind_host, server = "127.0.0.1", SimpleNamespace(port=1)

    def __init__(self, instead: dict[str, tuple[str, Any]]) -> None:
        self.handlers: dict[str, Handler] = {}
        self.clients: dict[str, Any] = {}
        self.sent: list[tuple[str, Any]] = []
        self._instead = instead

    def register_message(self, name: str, handler: Handler) -> None:
        self.handlers[name] = handler

    def hear(self, name: str, data: Any = None) -> None:
        self.handlers[name](None, SimpleNamespace(node_id="w", data=data))

    def start(self, clients: int, spawn_rate: int) -> None:
        self._answer("start", (messages.ARMED, {"clients": clients}))

    def quit(self) -> None:
        self.sent.append(("quit all", None))

    def send_message(self, name: str, data: Any, identity: str) -> None:
        self.sent.append((name, data))
        done = {"sent": 0, "unsent": 0, "records": 0, "early": False}
        answers: dict[str, tuple[str, Any]] = {
            messages.PART: (messages.PART_TAKEN, None),
            messages.LOAD: (messages.LOADED, None),
            messages.PING: (messages.PONG, {"number": data and data.get("number"), "now_ns": 0}),
            messages.START: (messages.DONE, done),
        }
        if name in answers:
            self._answer(name, answers[name])

    def _answer(self, name: str, answer: tuple[str, Any]) -> None:
        gevent.spawn(self.hear, *self._instead.get(name, answer))


class Lab:
    """A run of one worker that has not come yet."""

    def __init__(self, out: Path, instead: dict[str, tuple[str, Any]]) -> None:
        spec = LoadSpec(run="r", url="127.0.0.1:1", model="m", load=Load(clients=1), measure=Measure(duration_s=1))
        self.out, self.run, self.runner = out, RunState(spec), Runner(instead)
        inbox = Inbox(self.run, self.runner, out, None, Authenticator(b"token"))
        settings = Settings(out, workers_timeout_s=0.2, watched=False, last=False)
        self.coordinator = Coordinator(self.run, {"payloads": b"x"}, self.runner, inbox, settings)

    def come(self) -> None:
        hello = {"pid": os.getpid(), "host": "h", "version": messages.version(), "joined": False}
        self.runner.hear(messages.HELLO, {**hello, "clock": messages.clock(), "machine": messages.machine()})

    def end(self) -> tuple[int, dict[str, Any]]:
        return self.coordinator.run(), json.loads((self.out / "load.json").read_text())

    def over(self) -> Any:
        return dict(self.runner.sent)[messages.OVER]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lab]:
    monkeypatch.setattr(stages, "T0_AHEAD_S_MIN", 0.1)
    return lambda **instead: Lab(tmp_path / "out", instead)


def test_a_run_goes_through_every_stage(lab: Callable[..., Lab], capsys: pytest.CaptureFixture[str]) -> None:
    one = lab()
    assert (one.run.stage, one.run.phase()) == (Stage.GATHERING, Phase.ARMING)
    one.come()
    code, load = one.end()
    assert (code, one.run.stage, one.over()) == (0, Stage.DELIVERED, {"last": False})
    assert load["t0_monotonic_ns"] == one.run.t0_ns > 0 and load["workers"][0]["complete"]
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events == ["workers", "armed", "start", "end"]


def test_a_run_without_workers_fails_where_they_are_gathered(lab: Callable[..., Lab]) -> None:
    one = lab()
    code, load = one.end()
    assert (code, one.run.stage, one.run.phase()) == (1, Stage.GATHERING, Phase.ARMING)
    assert "only 0 of 1 workers came" in one.run.trouble and load["t0_monotonic_ns"] is None


@pytest.mark.parametrize(
    ("sent", "stage"),
    [(messages.LOAD, Stage.LOADING), ("start", Stage.CONNECTING)],
)
def test_a_worker_that_fails_before_t0_ends_the_campaign(lab: Callable[..., Lab], sent: str, stage: Stage) -> None:
    one = lab(**{sent: (messages.FAILED, {"message": "no"})})
    one.come()
    code, load = one.end()
    assert (code, one.run.stage, one.run.trouble) == (1, stage, "worker 1: no")
    assert one.over() == {"last": True} and load["t0_epoch_us"] is None


def test_a_worker_that_fails_after_t0_is_lost(lab: Callable[..., Lab]) -> None:
    one = lab(**{messages.START: (messages.FAILED, {"message": "no"})})
    one.come()
    code, load = one.end()
    assert (code, one.run.stage, one.run.trouble) == (1, Stage.DELIVERED, "")
    assert load["t0_monotonic_ns"] and not load["workers"][0]["complete"]


def test_a_run_that_is_stopped_before_t0_is_no_failure(lab: Callable[..., Lab]) -> None:
    one = lab(start=(messages.LOADED, None))  # the clients never connect
    one.come()
    gevent.spawn_later(0.1, one.coordinator.stop)
    code, load = one.end()
    assert (code, one.run.stage, load["stopped_early"]) == (0, Stage.CONNECTING, True)
