"""The log collector as a program, fed over TCP as HAProxy's ring does it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadproof.collect.log_collector import FRAME_BYTES_MAX, Frames


def frame(message: bytes) -> bytes:
    return b"%d %s" % (len(message), message)


def launch(out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "loadproof.collect.log_collector", "--out", str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    out = tmp_path / "requests.log"
    process = launch(out)
    assert process.stdout
    try:
        yield process, json.loads(process.stdout.readline())["port"], out
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The lines it says to have written, and its stderr."""
    process.send_signal(signal.SIGTERM)
    said, complained = process.communicate(timeout=30)
    assert process.returncode == 0
    return json.loads(said)["lines"], complained


def test_frames_are_cut_wherever_the_stream_is() -> None:
    stream = frame(b"one") + frame(b"") + frame(b"two words\n") + frame(b"x" * 300)
    for size in (1, 2, 3, 7, len(stream)):
        frames = Frames()
        cut = [message for at in range(0, len(stream), size) for message in frames.feed(stream[at : at + size])]
        assert cut == [b"one", b"", b"two words", b"x" * 300]


@pytest.mark.parametrize(
    "stream", [b"hello world", b"<134>Nov 22", b"-5 abc", b"999999 abc", b"%d x" % (FRAME_BYTES_MAX + 1)]
)
def test_a_stream_that_is_not_octet_counted_is_refused(stream: bytes) -> None:
    with pytest.raises(ValueError, match="octet-counted"):
        Frames().feed(stream)


def test_each_message_becomes_a_line(collector: tuple[subprocess.Popen[str], int, Path]) -> None:
    process, port, out = collector
    with socket.create_connection(("127.0.0.1", port)) as ring:
        for number in range(20_000):
            ring.sendall(frame(b"line %d" % number))
        assert end(process) == (20_000, "")
    assert out.read_bytes().splitlines() == [b"line %d" % number for number in range(20_000)]


def test_a_balancer_that_connects_again_goes_on(collector: tuple[subprocess.Popen[str], int, Path]) -> None:
    process, port, out = collector
    for number in range(3):
        with socket.create_connection(("127.0.0.1", port)) as ring:
            ring.sendall(frame(b"line %d" % number) + b"100 cut off")
        time.sleep(0.2)
    assert end(process)[0] == 3
    assert sorted(out.read_bytes().splitlines()) == [b"line 0", b"line 1", b"line 2"]


def test_a_connection_that_talks_nonsense_is_dropped_and_the_others_stay(
    collector: tuple[subprocess.Popen[str], int, Path],
) -> None:
    process, port, out = collector
    with (
        socket.create_connection(("127.0.0.1", port)) as good,
        socket.create_connection(("127.0.0.1", port), timeout=30) as bad,
    ):
        bad.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert bad.recv(1) == b""
        good.sendall(frame(b"still here"))
        lines, complained = end(process)
    assert (lines, out.read_bytes()) == (1, b"still here\n")
    assert "connection dropped: not an octet-counted frame: b'GET /" in complained


def test_an_existing_file_is_continued(tmp_path: Path) -> None:
    out = tmp_path / "requests.log"
    out.write_bytes(b"before\n")
    process = launch(out)
    assert process.stdout
    process.stdout.readline()
    end(process)
    assert out.read_bytes() == b"before\n"


def test_a_busy_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = launch(tmp_path / "requests.log", "--port", port)
        _, complained = process.communicate(timeout=30)
    assert process.returncode == 1
    assert complained.startswith(f"loadproof log collector: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert complained.count("\n") == 1
