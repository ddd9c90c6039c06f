"""The null server: real clients get a valid answer to whatever they ask, however their bytes are cut."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2

from loadproof_clients.null_server import answers
from loadproof_clients.null_server.grpc_side import (
    ACK,
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.clients.load_run import ROOT

Ports = dict[str, int]
KSERVE = answers.ANSWERS["kserve"]


@pytest.fixture(scope="module")
def ports() -> Iterator[Ports]:
    command = [sys.executable, "-m", "loadproof_clients.null_server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize("rows", [1, 10_000])
@pytest.mark.parametrize(("protocol", "triton"), [("grpc", triton_grpc), ("rest", triton_http)])
def test_tritonclient_gets_a_whole_answer(ports: Ports, protocol: str, triton: Any, rows: int) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{ports[protocol]}")
    x = triton.InferInput("x", [rows, answers.FLOATS], "FP32")
    x.set_data_from_numpy(np.ones((rows, answers.FLOATS), np.float32))
    for _ in range(3):
        assert client.infer("null", [x]).as_numpy("y").tolist() == [list(range(answers.FLOATS))]
    client.close()


@pytest.mark.parametrize(("protocol", "triton"), [("grpc", triton_grpc), ("rest", triton_http)])
def test_a_server_that_sleeps_gives_the_same_answer_later(protocol: str, triton: Any) -> None:
    command = [sys.executable, "-m", "loadproof_clients.null_server", "--delay-ms", "60"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        client = triton.InferenceServerClient(f"127.0.0.1:{json.loads(process.stdout.readline())[protocol]}")
        x = triton.InferInput("x", [1, answers.FLOATS], "FP32")
        x.set_data_from_numpy(np.ones((1, answers.FLOATS), np.float32))
        for _ in range(3):
            begun = time.monotonic()
            assert client.infer("null", [x]).as_numpy("y").tolist() == [list(range(answers.FLOATS))]
            assert time.monotonic() - begun > 0.055  # the loop's timers are of whole milliseconds
        client.close()
        process.terminate()


@pytest.mark.parametrize(("protocol", "triton"), [("grpc", triton_grpc), ("rest", triton_http)])
def test_tritonclient_learns_what_it_asks_about_server_and_model(ports: Ports, protocol: str, triton: Any) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{ports[protocol]}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("any")
    found = client.get_model_metadata("any")
    told = found if isinstance(found, dict) else {"inputs": [{"shape": list(found.inputs[0].shape)}]}
    assert list(map(int, told["inputs"][0]["shape"])) == [-1, answers.FLOATS]
    client.close()


def request() -> bytes:
    message = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[bytes(256)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    return prefixed(message)


def prefixed(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return b"\0" + len(content).to_bytes(4, "big") + content


def frames(stream: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each frame, until nothing more comes."""
    with stream.makefile("rb") as file:
        while len(head := file.read(9)) == 9:
            payload = file.read(int.from_bytes(head[:3], "big"))
            yield head[3], head[4], int.from_bytes(head[5:], "big"), payload


def finished(said: tuple[int, int, int, bytes]) -> list[int]:
    """The stream that this frame ends, if it ends one."""
    kind, flags, stream, payload = said
    assert kind != DATA or payload == KSERVE.grpc_inference
    assert not (kind == HEADERS and flags & END_STREAM) or payload == answers.TRAILERS
    return [stream] if kind == HEADERS and flags & END_STREAM else []


def test_answers_wait_for_the_clients_window(ports: Ports) -> None:
    """1,000 requests against the protocol's first window, 65,535 bytes; what is left comes when it opens."""
    numbers = range(1, 2001, 2)
    with socket.create_connection(("127.0.0.1", ports["grpc"]), timeout=10) as stream:
        asked = b"".join(frame(HEADERS, 4, n, b"\x83") + frame(DATA, END_STREAM, n, request()) for n in numbers)
        stream.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + asked)
        got = frames(stream)
        seen: list[int] = []
        while len(seen) < 65_535 // len(KSERVE.grpc_inference):
            seen += finished(next(got))
        stream.sendall(frame(PING, 0, 0, bytes(8)))
        while (said := next(got))[:2] != (PING, ACK):
            assert not finished(said)
        stream.sendall(frame(WINDOW_UPDATE, 0, 0, (1 << 24).to_bytes(4, "big")))
        while len(seen) < len(numbers):
            seen += finished(next(got))
        assert seen == list(numbers)


def test_bytes_may_be_cut_anywhere(ports: Ports) -> None:
    """Nagle's algorithm off, a byte at a time; the message in two frames, the first of them padded."""
    content = request()
    halves = frame(DATA, 8, 1, b"\x03" + content[:50] + bytes(3)) + frame(DATA, END_STREAM, 1, content[50:])
    http = b"POST /v2/models/m/infer HTTP/1.1\r\nExpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc"
    talks = {
        "grpc": (PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 4, 1, b"\x83") + halves, answers.TRAILERS),
        "rest": (http + b"GET /v2/health/ready HTTP/1.1\r\n\r\n", KSERVE.rest_about),
    }
    for protocol, (said, last) in talks.items():
        with socket.create_connection(("127.0.0.1", ports[protocol]), timeout=10) as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in said:
                stream.sendall(bytes((byte,)))
            got = b""
            while not got.endswith(last):
                got += stream.recv(1 << 16)
        assert (KSERVE.grpc_inference if protocol == "grpc" else KSERVE.rest_inference) in got
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")


def test_what_is_not_the_protocol_is_hung_up_on(ports: Ports) -> None:
    for protocol, noise in (("grpc", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), ("rest", bytes(1 << 17))):
        with socket.create_connection(("127.0.0.1", ports[protocol]), timeout=10) as stream:
            stream.sendall(noise)
            try:
                while stream.recv(1 << 16):
                    pass
            except ConnectionResetError:
                pass  # what it had not read


def test_an_inference_is_told_by_its_message() -> None:
    assert KSERVE.is_inference(request())
    assert KSERVE.is_inference(request()[:20])
    assert KSERVE.is_inference(prefixed(service_pb2.ModelInferRequest(model_name="m", model_version="1", id="7")))
    assert not KSERVE.is_inference(prefixed(service_pb2.ServerReadyRequest()))
    assert not KSERVE.is_inference(prefixed(service_pb2.ModelMetadataRequest(name="m")))
    assert not KSERVE.is_inference(prefixed(service_pb2.ModelReadyRequest(name="m", version="12")))
