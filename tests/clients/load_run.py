"""One load as it runs, for tests: a server, a master and its workers, each a process of its own, and what they left."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadproof_clients.records import RECORD, request_id
from loadproof_clients.tensors import files
from loadproof_clients.tensors.tensor import from_array

ROOT = Path(__file__).parent.parent.parent
PAYLOADS = 5
TOKEN = "a token that only the tests know"
WAYS = [(protocol, transport) for transport in ("tritonclient", "wire") for protocol in ("grpc", "rest")]
Records = npt.NDArray[np.void]


class Run:
    """One load in `out`; `finish` waits for its end."""

    def __init__(
        self,
        place: Path,
        protocol: str,
        server: list[str],
        load: dict[str, Any],
        measure: dict[str, Any],
        program: str = "",
        model: str = "double",
    ) -> None:
        """`program` takes the place of the truth server, which keeps a log."""
        self.place, self.out, self.protocol = place, place / "out", protocol
        self.transport = load.get("transport", "tritonclient")
        self.events: list[dict[str, Any]] = []
        self._stack = contextlib.ExitStack()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        truth = ["tests.truth_server", "--log", str(place / "log")]
        self.start("server", ["-m", *([program] if program else truth), *server])
        url = f"127.0.0.1:{self.line('server')[protocol]}"
        load = {"protocol": protocol, "clients": 4, "payloads": PAYLOADS, **load}
        spec = {"run": "r1", "url": url, "model": model, "load": load, "measure": measure}
        (place / "spec.json").write_text(json.dumps(spec))

    def start(self, name: str, arguments: list[str]) -> subprocess.Popen[str]:
        """A program; each of the load's reads the token from its standard input."""
        log = self._stack.enter_context((self.place / f"{name}.err").open("w"))
        command = [sys.executable, *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(f"{TOKEN}\n")
        process.stdin = None  # communicate() would flush it
        self.processes[name] = process
        return process

    def line(self, name: str) -> dict[str, Any]:
        """The next JSON line that a process prints."""
        stdout = self.processes[name].stdout
        assert stdout is not None
        text = stdout.readline()
        assert text, (self.place / f"{name}.err").read_text()
        return dict(json.loads(text))

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Reads the master's events up to the first that is like this."""
        while True:
            self.events.append(said := self.line("master"))
            if said["event"] == event and fields.items() <= said.items():
                return said

    def master(self, *extra: str, answers: bool = True, floats: int = 16) -> Run:
        payloads, references = parcels(self.place, floats)
        arguments = ["--spec", str(self.place / "spec.json"), "--payloads", str(payloads), "--out", str(self.out)]
        arguments += ["--answers", str(references)] if answers else []
        self.start("master", ["-m", "loadproof_clients.load.master", *arguments, *extra])
        return self

    def begin(
        self,
        *extra: str,
        answers: bool = True,
        floats: int = 16,
        workers: int = 1,
        program: str = "loadproof_clients.load.worker",
    ) -> Run:
        self.master(*extra, answers=answers, floats=floats)
        port = self.until("listening")["port"]
        for number in range(workers):
            spool = ["--spool", str(self.out)]
            self.start(f"worker{number}", ["-m", program, "--port", str(port), *spool])
        return self

    def finish(self) -> int:
        """The master's exit code, once all but the server have ended by themselves."""
        stdout, _ = self.processes["master"].communicate(timeout=60)
        self.events += [json.loads(text) for text in stdout.splitlines()]
        for name, process in self.processes.items():
            if name != "server":
                process.wait(timeout=20)
        return self.processes["master"].returncode

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()
        self._stack.close()

    def records(self, worker: int) -> Records:
        return np.fromfile(self.out / "records" / f"worker-{worker}.rec", RECORD)

    def by_id(self) -> dict[str, Any]:
        """Every record of every worker by the id that its request carried."""
        workers = [worker["worker"] for worker in self.saved()["workers"]]
        rows = [(worker, row) for worker in workers for row in self.records(worker)]
        found = {request_id("r1", worker, row["sequence"], row["phase"]): row for worker, row in rows}
        assert len(found) == len(rows)
        return found

    def health(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "generator.jsonl").read_text().splitlines()]

    def log(self) -> dict[str, dict[str, Any]]:
        """What the server saw, by id."""
        lines = [json.loads(text) for text in (self.place / "log").read_text().splitlines()]
        found = {line["id"]: line for line in lines}
        assert len(found) == len(lines)
        return found

    def saved(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "load.json").read_text()))


def parcels(place: Path, floats: int) -> tuple[Path, Path]:
    payloads, answers = place / "payloads.bin", place / "answers.bin"
    arrays = [np.random.default_rng(number).random(floats, dtype=np.float32) for number in range(PAYLOADS)]
    files.write(payloads, [[from_array("x", "FP32", x)] for x in arrays])
    files.write(answers, [[from_array("y", "FP32", x * 2)] for x in arrays])
    return payloads, answers
