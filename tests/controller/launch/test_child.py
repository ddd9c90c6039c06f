"""Children: they end with their context and with the controller, and say why they died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from loadproof.errors import LoadproofError
from loadproof.launch.child import Child

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def gone(pid: int, within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_leaving_the_context_ends_the_child_and_its_children(tmp_path: Path) -> None:
    nested = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    )
    nested += "print(p.pid, flush=True); time.sleep(600)"
    with Child("c", [sys.executable, "-c", nested], tmp_path / "log", pipe=True) as child:
        grandchild = int(child.stdout.readline())
        assert psutil.pid_exists(grandchild)
    assert child.popen.returncode == -signal.SIGTERM
    assert gone(grandchild)


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with Child("c", [sys.executable, "-c", stubborn], tmp_path / "log", pipe=True) as child:
        child.stdout.readline()
        child.stop(timeout_s=0.1)
    assert gone(child.popen.pid)


def test_a_death_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    program = "import sys; print('\\n'.join(f'line {i}' for i in range(100)), file=sys.stderr); sys.exit(7)"
    with (
        Child("the server", [sys.executable, "-c", program], tmp_path / "log") as child,
        pytest.raises(LoadproofError, match=r"the server exited with code 7; mend it") as caught,
    ):
        child.wait_until(lambda: False, 60, "mend it")
    assert caught.value.detail.splitlines()[-1] == "line 99"
    assert len(caught.value.detail.splitlines()) == 15


def test_a_kill_is_told_by_the_signals_name_and_a_stop_is_no_death(tmp_path: Path) -> None:
    with Child("c", SLEEP, tmp_path / "log") as child:
        assert child.died() is None
        child.popen.kill()
        child.popen.wait()
        assert child.died() == "c was killed by SIGKILL"
    with Child("c", SLEEP, tmp_path / "log") as child:
        pass
    assert child.died() is None


def test_waiting_ends_with_the_cure_when_it_takes_too_long(tmp_path: Path) -> None:
    with (
        Child("c", SLEEP, tmp_path / "log") as child,
        pytest.raises(LoadproofError, match="not ready after 0 s; wait more"),
    ):
        child.wait_until(lambda: False, 0.05, "wait more")


def test_children_end_with_a_controller_that_was_killed(tmp_path: Path) -> None:
    up = "import time; print(flush=True); time.sleep(600)"  # it says so: the kernel knows whom to follow by then
    program = (
        "import sys, time; from pathlib import Path; from loadproof.launch.child import Child\n"
        f"c = Child('c', [sys.executable, '-c', {up!r}], Path({str(tmp_path / 'log')!r}), pipe=True)\n"
        "c.stdout.readline(); print(c.popen.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as controller:
        assert controller.stdout is not None
        pid = int(controller.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(controller.pid, signal.SIGKILL)
    assert gone(pid)
