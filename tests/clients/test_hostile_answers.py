"""Answers that are made to harm: each is a failed request with its status, over every transport, within memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof_clients import transports
from loadproof_clients.records import OK, TOO_LARGE, UNREADABLE, status_name
from loadproof_clients.spec import Load, LoadSpec, Measure
from loadproof_clients.tensors.tensor import Tensor
from loadproof_clients.transport import Client, Failure, MetadataFailed
from tests import hostile_server
from tests.clients.load_run import ROOT, WAYS, Run

JSON = [
    *hostile_server.BODIES,
    *(f"json_size{n}" for n in range(len(hostile_server.JSON_SIZES))),
    "gzip",
    "length_long",
]
ENDLESS = ["interim", "headers", "header", "extension", "trailers"]
LARGE = ["large", "large_chunked", "large_tiny_chunks", "large_until_closed", "endless_extensions"]
MESSAGES = [
    *("more_raw", "datatype_unknown", "shape_negative", "shape_long", "typed_too_large", "garbage", "nested", "gzip"),
]


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with subprocess.Popen([sys.executable, "-m", "tests.hostile_server"], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.kill()


def asked(ports: dict[str, int], protocol: str, transport: str, case: str) -> tuple[int, str]:
    """Status and message of one inference, as prepare and the load see it."""
    load = Load.model_validate({"protocol": protocol, "transport": transport, "timeout_s": 20, "max_answer_mb": 1})
    spec = LoadSpec(run="r", url=f"127.0.0.1:{ports[protocol]}", model=case, load=load, measure=Measure())
    client: Client = transports.prepare(spec, [[Tensor("x", "FP32", (1,), bytes(4))]])()
    with closing(client):
        client.connect(10)
        exchange = client.infer(0, "r.1.1.m")
        if exchange.status != OK:
            return exchange.status, exchange.message
        try:
            client.tensors(exchange.answer)
        except Failure as failure:
            return failure.status, str(failure)
    return OK, ""


@pytest.mark.parametrize("transport", ["tritonclient", "wire"])
@pytest.mark.parametrize("case", JSON)
def test_a_rest_answer_that_is_none_is_unreadable(ports: dict[str, int], transport: str, case: str) -> None:
    status, message = asked(ports, "rest", transport, case)
    assert status == UNREADABLE, (status_name(status), message)
    assert 0 < len(message) <= 500


@pytest.mark.parametrize("transport", ["tritonclient", "wire"])
@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_that_is_no_answer_is_unreadable(ports: dict[str, int], transport: str, case: str) -> None:
    status, message = asked(ports, "grpc", transport, case)
    assert status == UNREADABLE, (status_name(status), message)


@pytest.mark.parametrize("transport", ["tritonclient", "wire"])
@pytest.mark.parametrize("case", ENDLESS)
def test_what_comes_beside_the_body_has_a_bound(ports: dict[str, int], transport: str, case: str) -> None:
    status, message = asked(ports, "rest", transport, f"endless_{case}")
    assert status in (UNREADABLE, TOO_LARGE), (status_name(status), message)


@pytest.mark.parametrize("transport", ["tritonclient", "wire"])
@pytest.mark.parametrize(
    ("protocol", "case"), [("grpc", "large"), *(("rest", case) for case in LARGE)], ids=lambda value: str(value)
)
def test_an_answer_beyond_the_bound_is_failed_and_not_read_on(
    ports: dict[str, int], transport: str, protocol: str, case: str
) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert asked(ports, protocol, transport, case) == (TOO_LARGE, "the answer is over load.max_answer_mb = 1")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 60_000


@pytest.mark.parametrize(("protocol", "transport"), WAYS)
def test_the_next_answer_is_read_as_ever(ports: dict[str, int], protocol: str, transport: str) -> None:
    assert asked(ports, protocol, transport, "good") == (OK, "")


@pytest.mark.parametrize(("protocol", "transport"), WAYS)
def test_a_worker_outlives_what_it_is_answered(new_run: Callable[..., Run], protocol: str, transport: str) -> None:
    """A master and a worker against it: every request is a record, and the run ends by itself."""
    load: dict[str, Any] = {"transport": transport, "clients": 2, "max_answer_mb": 1}
    model = "nested" if protocol == "rest" else "shape_negative"
    measure = {"warmup_s": 0, "duration_s": 1}
    run = new_run(protocol, [], load, measure, program="tests.hostile_server", model=model).begin()
    assert run.finish() == 0
    records = run.records(1)
    assert len(records) and np.all(records["status"] == UNREADABLE)


def prepared(tmp_path: Path, port: int, **load: Any) -> subprocess.CompletedProcess[str]:
    spec = LoadSpec(run="r", url=f"127.0.0.1:{port}", model="m", load=Load.model_validate(load), measure=Measure())
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "loadproof_clients.prepare", "--spec", str(tmp_path / "spec.json")]
    command += ["--payloads", str(tmp_path / "payloads")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("transport", ["tritonclient", "wire"])
def test_metadata_a_byte_at_a_time_ends_with_the_time_out(tmp_path: Path, transport: str) -> None:
    command = [sys.executable, "-m", "tests.hostile_server", "0.1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["rest"]
        done = prepared(tmp_path, port, protocol="rest", transport=transport, timeout_s=2)
        process.kill()
    assert done.returncode == 1 and "no whole answer within 2 s" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"inputs": None},
        {"inputs": [None]},
        {"inputs": {"x": 1}},
        {"inputs": [{"name": ["x"], "datatype": "FP32", "shape": [1]}]},
        {"inputs": [{"name": "x", "datatype": 3, "shape": [1]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1] * 1000}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": None}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}] * 2000},
    ],
    ids=str,
)
def test_metadata_of_another_kind_is_one_clear_line(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from loadproof_clients.kserve import metadata

    monkeypatch.setattr(metadata, "_rest", lambda spec: answer)
    load = Load.model_validate({"protocol": "rest"})
    spec = LoadSpec(run="r", url="127.0.0.1:1", model="m", load=load, measure=Measure())
    with pytest.raises(MetadataFailed) as caught:
        metadata.ask(spec)
    assert len(str(caught.value)) <= 500
