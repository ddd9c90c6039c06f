"""The kernel's clocks and the waits of threads, read of real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadproof_clients.kernel import read, thread_names, thread_waits_ns, wall_ns

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("offset_s", [0, 100])
def test_the_clocks_distance_is_read_to_a_millisecond(offset_s: int) -> None:
    """In a time namespace the monotonic clock is ahead, and the wall clock is not."""
    program = "from loadproof_clients.kernel import wall_ns; print([wall_ns() for _ in range(50)])"
    before = ["unshare", "--time", "--monotonic", str(offset_s), "--fork"] if offset_s else []
    if before and subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to make a time namespace")
    done = subprocess.run(
        [*before, sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    readings = json.loads(done.stdout)
    assert max(readings) - min(readings) < 1_000_000
    assert abs(wall_ns() - readings[0] - offset_s * 10**9) < 10_000_000


def test_each_thread_of_a_process_has_a_wait_and_an_ended_process_has_none() -> None:
    own = Path("/proc/self")
    assert str(os.getpid()) in thread_names(own)
    before, after = thread_waits_ns(), thread_waits_ns(Path("/proc") / str(os.getpid()))
    assert 0 <= before[str(os.getpid())] <= after[str(os.getpid())]
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    gone = Path("/proc") / str(process.pid)
    assert (thread_names(gone), thread_waits_ns(gone), read(gone / "stat")) == ([], {}, "")


def test_what_is_no_statistics_of_a_thread_is_left_out(tmp_path: Path) -> None:
    for thread, text in (("1", "5 7 9"), ("2", "5 7"), ("3", "5 x 9")):
        (tmp_path / "task" / thread).mkdir(parents=True)
        (tmp_path / "task" / thread / "schedstat").write_text(text)
    assert thread_waits_ns(tmp_path) == {"1": 7}
