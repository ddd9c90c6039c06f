"""JSON bombs and long JSON sent to a real server, and how long its event loop stands still meanwhile."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

import numpy as np
import psutil
import pytest

from loadproof_server.errors import TooLarge
from loadproof_server.kserve import json_process
from tests.server.small_models import Server, run


class Watch:
    """How long the server's answer to GET /v2/health/live took at most, while the block ran."""

    def __init__(self, server: Server) -> None:
        self._server, self._done, self.longest_s = server, threading.Event(), 0.0

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.is_set():
            started = time.monotonic()
            with urllib.request.urlopen(f"http://{self._server.rest}/v2/health/live") as response:
                response.read()
            self.longest_s = max(self.longest_s, time.monotonic() - started)


def send(server: Server, body: bytes, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.rest, timeout=120)
    connection.request("POST", "/v2/models/free/infer", body, headers)
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def long_json(data: bytes) -> bytes:
    return b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1000,2000],"data":[%s]}]}' % data


def test_long_json_is_answered_right_and_others_meanwhile(free: Server) -> None:
    values = np.arange(2_000_000, dtype=np.float32) - 1_000_000
    started = time.monotonic()
    with Watch(free) as watch:
        status, answer = send(free, long_json(",".join(map(str, values.tolist())).encode()))
    took_s = time.monotonic() - started
    assert status == 200
    assert np.array_equal(np.array(answer["outputs"][0]["data"], np.float32), np.maximum(values, 0))
    assert watch.longest_s < took_s / 3  # on the event loop it would be nearly all of it


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (long_json(b"[" * 3_000_000), 400, "body: JSON nested too deeply"),
        (
            long_json(b"[]," * 3_000_000 + b"1"),
            400,
            "input x: data for FP32 holds lists of unequal lengths or too deep",
        ),
        (long_json(b"{}," * 3_000_000 + b"1"), 400, "input x: data for FP32 holds"),
        (long_json(b"1," * 3_000_000 + b"1"), 400, "input x: data of shape [3000001] does not fit shape [1000, 2000]"),
        (long_json(b"9" * 3_000_000), 400, "body: broken JSON"),
        (b'{"inputs":[' + b"{}," * 3_000_000 + b"{}]}", 400, "inputs: 3000001 entries are too many"),
        (b" " * (65 << 20), 413, "body: JSON larger than 67108864 bytes; send tensors as binary data"),
    ],
    ids=["deep", "lists", "objects", "numbers", "a number", "inputs", "size"],
)
def test_a_json_bomb_is_refused_and_others_are_answered(free: Server, body: bytes, status: int, message: str) -> None:
    with Watch(free) as watch:
        found, answer = send(free, body)
    assert (found, message in answer["error"]) == (status, True), answer
    assert watch.longest_s < 30


def test_the_process_for_json_ends_with_the_server_and_another_takes_its_place(free: Server) -> None:
    body = long_json(b",".join([b"1"] * 2_000_000))
    assert send(free, body)[0] == 200
    (child,) = psutil.Process(free.process.pid).children()
    child.kill()
    assert {send(free, body)[0], send(free, body)[0]} <= {200, 503}
    assert send(free, body)[0] == 200


def test_a_question_that_takes_too_long_is_given_up() -> None:
    async def test() -> None:
        process = json_process.JsonProcess(timeout_s=0.01)
        text = memoryview(long_json(b",".join([b"1"] * 2_000_000)))
        with pytest.raises(TooLarge, match=r"^JSON: not read within 0 s; send tensors as binary data"):
            await process.parse(text, None)
        patient = json_process.JsonProcess()
        assert (await patient.parse(text, None)).inputs[0].data.shape == (1000, 2000)
        await patient.close()

    run(test)


def test_the_process_for_json_does_not_load_openvino() -> None:
    """Its types and tables do not need it, and it would only cost memory and time."""
    program = "import sys, loadproof_server.kserve.json_process; sys.exit('openvino' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
