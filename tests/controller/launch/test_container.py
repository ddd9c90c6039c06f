"""The lease of a container: its server runs after a "go", and as long as somebody goes on writing."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from loadproof.launch.container import LEASE_S, Container, _frames, lease


@contextlib.contextmanager
def running(program: str, lease_s: int = 3) -> Iterator[subprocess.Popen[bytes]]:
    command = ["bash", "-c", lease(lease_s), "lease", "bash", "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, start_new_session=True, **pipes)  # type: ignore[call-overload]
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


@pytest.fixture
def leased() -> Iterator[subprocess.Popen[bytes]]:
    with running("echo started; exec sleep 60") as process:
        yield process


def say(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def test_without_a_go_nothing_starts(leased: subprocess.Popen[bytes]) -> None:
    say(leased, b"\n")
    assert leased.wait(30) == 1
    assert leased.stdout is not None and leased.stdout.read() == b""


def test_a_server_is_killed_when_the_line_closes(leased: subprocess.Popen[bytes]) -> None:
    say(leased, b"\ngo\n")
    assert leased.stdout is not None and leased.stdout.readline() == b"started\n"
    assert leased.stdin is not None
    leased.stdin.close()
    assert leased.wait(30) == -signal.SIGKILL


def test_a_server_lives_while_lines_come_and_is_killed_in_silence(leased: subprocess.Popen[bytes]) -> None:
    say(leased, b"go\n")
    began_s = time.monotonic()
    while time.monotonic() - began_s < 5:  # longer than the lease
        time.sleep(0.1)
        say(leased, b"\n")
    assert leased.poll() is None
    assert leased.wait(30) == -signal.SIGKILL


def test_the_program_keeps_its_exit_code_and_does_not_get_the_line() -> None:
    with running('read -r x; echo "[$x]"; [ ! -e /dev/fd/3 ] || echo open; exit 7', LEASE_S) as process:
        say(process, b"go\nsecret\n")
        assert process.wait(60) == 7
        assert process.stdout is not None and process.stdout.readlines() == [b"[]\n"]


def test_output_is_read_frame_by_frame_and_a_torn_header_ends_it() -> None:
    stream = io.BytesIO(b"\x01\0\0\0\0\0\0\x03out" + b"\x02\0\0\0\0\0\x01\x00" + b"e" * 256 + b"\x01\0\0")
    assert list(_frames(stream)) == [b"out", b"e" * 256]


class Handle:
    """The engine's container: its state, or None where it is gone already."""

    def __init__(self, is_oom: bool | None) -> None:
        self.attrs = {"State": {"OOMKilled": is_oom}}
        self._is_gone = is_oom is None

    def reload(self) -> None:
        if self._is_gone:
            raise docker.errors.NotFound("gone")


def ended(code: int, events: list[str], is_oom: bool | None, memory_mb: int | None = 350) -> str | None:
    """What is said of a container that ended with the code, by the engine's events and its state."""
    container = Container(None, Handle(is_oom), [], Path("log"), memory_mb)
    container._threads["log"] = SimpleNamespace(join=lambda timeout_s: None)  # type: ignore[assignment]
    told: list[dict[str, Any]] = [{"Action": name, "Actor": {"Attributes": {"exitCode": str(code)}}} for name in events]
    container._watch(iter(told))
    return container.died()


MEMORY = "the server's container was killed for memory: server.memory_mb = 350 is its limit"


@pytest.mark.parametrize(
    ("code", "events", "is_oom", "told"),
    [
        (137, ["oom", "die", "destroy"], None, MEMORY),
        (137, ["die", "oom", "destroy"], None, MEMORY),
        (137, ["die", "destroy"], True, MEMORY),
        (1, ["oom", "die", "destroy"], False, MEMORY),
        (137, ["die", "destroy"], False, "the server's container was killed by SIGKILL"),
        (137, ["die", "destroy"], None, "the server's container was killed by SIGKILL"),
        (3, ["die", "destroy"], False, "the server's container exited with code 3"),
        (137, ["die"], True, MEMORY),
    ],
)
def test_an_end_for_memory_is_told_from_any_other(code: int, events: list[str], is_oom: bool | None, told: str) -> None:
    assert (ended(code, events, is_oom) or "").startswith(told)


def test_without_a_limit_of_its_own_the_memory_was_the_machines() -> None:
    assert "its machine's memory is its limit" in (ended(137, ["oom", "die", "destroy"], None, None) or "")
