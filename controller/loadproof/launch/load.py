"""The load's programs: payloads and references are made first, then the Locust master and its workers drive."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loadproof.errors import LoadproofError
from loadproof.launch.child import Child
from loadproof.launch.endpoints import Endpoints
from loadproof_clients.spec import LoadSpec

Event = dict[str, Any]
PREPARE_TIMEOUT_S = 600


class ReferenceFailed(Exception):
    """Neither the server nor a separate OpenVINO process gave a reference answer to a payload."""


def prepare(spec_path: Path, payloads: Path, log: Path, records: Path, answers: Path | None = None) -> None:
    """Make the payloads from the model's metadata, and audit the server for a cache; with `answers` it is then asked
    for the references.

    Raises LoadproofError for payloads that cannot be made, ReferenceFailed when the server did not answer one.
    """
    command = [sys.executable, "-m", "loadproof_clients.prepare", "--spec", str(spec_path), "--payloads", str(payloads)]
    command += ["--audit", "--records", str(records)]
    if answers:
        command += ["--answers", str(answers)]
    code, tail = _finish("the payload maker", command, log)
    if code == 4:
        raise ReferenceFailed(tail)
    if code == 2:  # a line for each mistake
        raise LoadproofError("; ".join(line.removeprefix("loadproof: ") for line in tail.splitlines()))
    if code:
        raise LoadproofError(f"the payload maker failed with code {code} (log: {log})", tail)


def refer(model_path: Path, openvino_flags: Sequence[str], payloads: Path, answers: Path, log: Path) -> None:
    """Let a separate OpenVINO process answer every payload; raises ReferenceFailed with the reason."""
    command = [sys.executable, "-m", "loadproof.reference", "--model_path", str(model_path), *openvino_flags]
    code, tail = _finish("the reference maker", [*command, "--payloads", str(payloads), "--answers", str(answers)], log)
    if code:
        raise ReferenceFailed(tail)


def _finish(name: str, command: Sequence[str], log: Path) -> tuple[int, str]:
    """Run a program to its end; its exit code and the end of its log."""
    with Child(name, command, log) as child:
        try:
            return child.popen.wait(PREPARE_TIMEOUT_S), child.tail()
        except subprocess.TimeoutExpired:
            raise LoadproofError(f"{name} did not end within {PREPARE_TIMEOUT_S} s", child.tail()) from None


class Generator:
    """A running Locust master; `next_event` gives its events until it ends."""

    def __init__(self, master: Child) -> None:
        self.master = master
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="load events", daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # closed while reading: the run is over
            for line in self.master.stdout:
                with contextlib.suppress(json.JSONDecodeError):
                    self._events.put(json.loads(line))
        self._events.put(None)

    def next_event(self, timeout_s: float) -> Event | None:
        """The next event, `{}` when none came within `timeout_s`, None when the master has ended."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return {}

    def stop_early(self) -> None:
        """Ask the master to stop sending, to drain and to deliver what there is."""
        self.master.popen.terminate()


@contextlib.contextmanager
def generate(
    spec: LoadSpec,
    spec_path: Path,
    payloads: Path,
    answers: Path | None,
    work: Path,
    logs: Path,
    endpoints: Endpoints,
    workers: int,
) -> Iterator[Generator]:
    """Start the master, then `workers` of the `load.processes`; the others come from elsewhere.

    Leaving the context ends them all. Each gets the campaign's token from its standard input.
    """
    endpoints.write_token()
    command = [
        sys.executable,
        "-m",
        "loadproof_clients.load.master",
        "--spec",
        str(spec_path),
        "--payloads",
        str(payloads),
    ]
    command += ["--out", str(work), "--host", endpoints.host, "--port", str(endpoints.port)]
    if answers:
        command += ["--answers", str(answers)]
    if endpoints.last:
        command += ["--last"]
    if endpoints.web_port is not None:
        command += ["--web", str(endpoints.web_port)]
    if endpoints.metrics_port is not None:
        command += ["--metrics", str(endpoints.metrics_port)]
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(
            Child("the Locust master", command, logs / "master.log", pipe=True, told=endpoints.token)
        )
        generator = Generator(master)
        port = _listening_port(generator)
        for number in range(1, workers + 1):
            worker = [
                sys.executable,
                "-m",
                "loadproof_clients.load.worker",
                "--host",
                endpoints.host,
                "--port",
                str(port),
            ]
            worker += ["--spool", str(work)]
            log = logs / f"worker-{number}.log"
            stack.enter_context(Child(f"load worker {number}", worker, log, told=endpoints.token))
        yield generator


def _listening_port(generator: Generator) -> int:
    event = generator.next_event(timeout_s=60)
    if event and event.get("event") == "listening":
        return int(event["port"])
    problem = (event or {}).get("message") or f"it did not say where it listens (log: {generator.master.log})"
    raise LoadproofError(f"the Locust master did not start: {problem}", generator.master.tail())
