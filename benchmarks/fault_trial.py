"""A campaign that a fault strikes: started, watched by what it says, struck, and looked at when it has ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import psutil
import pyarrow.parquet as pq

from loadproof.launch.ports import free_ports
from tests.truth.session import LOADPROOF, ROOT

MARK: Final = "LOADPROOF_FAULT"  # in the environment of all that a trial starts: orphans are found by it
FAKETIME: Final = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
GIVE_UP_S: Final = 150
LEFT_S: Final = 3.0  # what the kernel kills needs a moment
DISK_MB: Final = 64
DURATION_S: Final = 4
PLAN: Final = """
name = "faults"
[server]
{server}
[load]
transport = "wire"
clients = 4
processes = 2
payloads = 4
timeout_s = 2
{load}
[measure]
warmup_s = 1
duration_s = {duration_s}
drain_s = 1
"""
OURS: Final = 'model = "ocr-cls"'


class Trial:
    """`out` is the campaign's directory; leaving the context ends whatever is still there."""

    def __init__(self, name: str, place: Path, models: Path) -> None:
        self.name, self.place, self.models, self.out = name, place, models, place / "out"
        self.mark = uuid.uuid4().hex
        self.struck_s = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._master: int | None = None
        self._said = bytearray()
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.left():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process:
            self.process.wait()
        self._cleanup.close()

    def start(
        self,
        server: str = OURS,
        load: str = "",
        command: Sequence[str] = LOADPROOF,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """The campaign, with what it says on a pipe."""
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [*command, *self._arguments(server, load)],
            cwd=ROOT,
            env=self.environment(**(env or {})),
            stdout=write,
            stderr=write,
        )
        os.close(write)
        self._listen(read)

    def start_on_a_terminal(self) -> None:
        self._master, side = pty.openpty()
        self.process = subprocess.Popen(
            [*LOADPROOF, *self._arguments(OURS, "")],
            cwd=ROOT,
            env=self.environment(TERM="xterm"),
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(side)
        self._listen(os.dup(self._master))

    def close_terminal(self) -> None:
        """The kernel sends SIGHUP to whoever is on it, once nobody holds its other side."""
        assert self._master is not None
        self._closing.set()
        self._reader.join()
        os.close(self._master)
        self.strike_now()

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, MARK: self.mark, "COLUMNS": "200", **more}

    def strike_now(self) -> None:
        self.struck_s = time.monotonic()

    def interrupt(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.strike_now()

    def wait_for(self, text: str, then_s: float = 0) -> None:
        """Until the campaign says so; it is started where it was not."""
        if self.process is None:
            self.start()
        assert self.process is not None
        deadline_s = time.monotonic() + GIVE_UP_S
        while text.encode() not in self._said:
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.name}: it did not say {text!r} but {self.said}")
            time.sleep(0.01)
        time.sleep(then_s)
        self.strike_now()

    def find(self, pattern: str | None, wait_s: float = 0) -> psutil.Process:
        """The child with that in its command line; the controller for None."""
        if self.process is None:
            self.start()
        assert self.process is not None
        if pattern is None:
            return psutil.Process(self.process.pid)
        deadline_s = time.monotonic() + wait_s
        while True:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if pattern in " ".join(child.cmdline()) and "setpriv" not in child.name():
                        self.strike_now()
                        return child
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.name}: no process has {pattern} in its command line")
            time.sleep(0.02)

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        controller = psutil.Process(self.process.pid)
        return [controller, *controller.children(recursive=True)]

    def left(self) -> list[psutil.Process]:
        """Whatever this trial started and still runs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_ours = process.environ().get(MARK) == self.mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    @property
    def said(self) -> str:
        return self._said.decode(errors="replace").replace(str(self.place), "PLACE")

    def aside(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Started beside the campaign, without the mark, and ended with the trial."""
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

        def end() -> None:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()

        self._cleanup.callback(end)
        return process

    def at_the_end(self, command: list[str]) -> None:
        self._cleanup.callback(subprocess.run, command, check=False)

    def ended(self) -> dict[str, Any]:
        """A row: what the command ended with, and what there is then."""
        if self.process is None:
            self.start()
        assert self.process is not None
        code = self.process.wait(GIVE_UP_S)
        ended_s = time.monotonic() - self.struck_s
        deadline_s = time.monotonic() + LEFT_S
        while (left := self.left()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        self._reader.join(5)
        run, reasons = self.run(), []
        if run:
            reasons = [reason["code"] for reason in run["reasons"]]
        return {
            "fault": self.name,
            "exit": code,
            "verdict": run and run["verdict"],
            "reasons": reasons,
            "ended_s": round(ended_s, 1),
            "saved": list(self._saved()),
            "left": [" ".join(process.cmdline())[:100] for process in left],
            "traceback": "Traceback" in self.said,
            "said": self.said.strip().splitlines()[-1:],
        }

    def resume(self) -> tuple[int, str]:
        command = [*LOADPROOF, "run", "--resume", str(self.out), "--models", str(self.models)]
        pipe = subprocess.PIPE
        env = self.environment()
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, timeout=240, check=False
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def _arguments(self, server: str, load: str) -> list[str]:
        path = self.place / "plan.toml"
        path.write_text(PLAN.format(server=server, load=load, duration_s=DURATION_S))
        return ["run", str(path), "--out", str(self.out), "--models", str(self.models)]

    def _listen(self, descriptor: int) -> None:
        self._closing = threading.Event()

        def read() -> None:
            os.set_blocking(descriptor, False)
            with contextlib.suppress(OSError):
                while not self._closing.is_set():
                    try:
                        if not (data := os.read(descriptor, 4096)):
                            break
                        self._said += data
                    except BlockingIOError:
                        time.sleep(0.005)
            os.close(descriptor)

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    def run(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return dict(json.loads((self.out / "summary.json").read_text())["runs"][0])
        return None

    def _saved(self) -> Iterator[str]:
        for run in sorted(self.out.glob("runs/*")):
            with contextlib.suppress(OSError, ValueError):
                end = json.loads((run / "run.json").read_text())["end"]
                yield f"run.json ({'finished' if end['finished'] else 'unfinished'})"
            with contextlib.suppress(OSError, ValueError):
                if rows := pq.read_metadata(run / "requests.parquet").num_rows:
                    yield f"{rows:,} requests"
        if (self.out / "report.html").exists():
            yield "report"


def resume_after(trial: Trial) -> str:
    """What `--resume` did, in the words of a row; it never measures what was finished."""
    if not trial.out.exists():
        return "no directory"
    code, said = trial.resume()
    if code == 1 and "nothing is left to do" in said:
        return "nothing is left to do"
    run = trial.run()
    if code == 0 and run and run["requests"]["ok"]:
        return "measured again"
    return f"exit {code}: {said.strip().splitlines()[-1:]}"


def get_model(models: Path) -> None:
    """Once, for all trials."""
    get = [*LOADPROOF, "model", "get", "ocr-cls", "--models", str(models)]
    subprocess.run(get, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def full_disk(trial: Trial) -> None:
    """Filled up in the middle; empty again before --resume."""
    trial.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(trial.out)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        trial.wait_for("measuring", then_s=1)
        for process in trial.family():
            process.rlimit(psutil.RLIMIT_FSIZE, (4096, psutil.RLIM_INFINITY))
        return
    trial.at_the_end(["umount", "--lazy", str(trial.out)])
    trial.wait_for("measuring", then_s=1)
    filler = trial.out / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    trial.strike_now()
    assert trial.process is not None
    trial.process.wait(GIVE_UP_S)
    filler.unlink()


def network(trial: Trial) -> None:
    """A relay stands between balancer and server; stopped, it takes connections and passes nothing on."""
    grpc, rest, relay_grpc, relay_rest = free_ports(4)
    flags = ["--model_name", "reader", "--model_path", str(trial.models / "ocr-cls"), "--metrics_enable"]
    trial.aside([sys.executable, "-m", "loadproof_server.main", *flags, "--port", str(grpc), "--rest_port", str(rest)])
    routes = [f"127.0.0.1:{here}=127.0.0.1:{there}" for here, there in ((relay_grpc, grpc), (relay_rest, rest))]
    relay = trial.aside([sys.executable, "-m", "tests.relay", "--delay-ms", "0", *routes])
    address = f'address = "127.0.0.1:{relay_grpc}"\nrest_address = "127.0.0.1:{relay_rest}"'
    trial.start(f'launch = "external"\nmodel = "reader"\n{address}', "shapes = { x = [1, 3, 48, 192] }")
    trial.wait_for("measuring", then_s=1)
    relay.send_signal(signal.SIGSTOP)


def hung_up(trial: Trial) -> None:
    trial.start_on_a_terminal()
    trial.wait_for("measuring", then_s=1)
    trial.close_terminal()


def faked(trial: Trial) -> None:
    """Of the controller alone: what it starts does not get the library.

    Debian's libfaketime 0.9.10 refuses the clock_nanosleep of Python's sleep, which is therefore select's here.
    """
    offset = trial.place / "offset"
    offset.write_text("+0")
    program = "import os, select, time; time.sleep = lambda s: (select.select([], [], [], max(0, s)), None)[1]; "
    program += "del os.environ['LD_PRELOAD']; from loadproof.cli import main; main()"
    faking = {"FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    trial.start(command=[sys.executable, "-c", program], env={"LD_PRELOAD": str(FAKETIME), **faking})
    trial.wait_for("measuring", then_s=1)
    offset.write_text("+3600")


def descriptors(trial: Trial) -> None:
    """As `ulimit -n` leaves them to a user: enough to start, not enough for the load."""
    trial.start(command=["prlimit", "--nofile=24:24", "--", *LOADPROOF])
    trial.strike_now()
