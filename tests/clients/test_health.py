"""A load process's own readings, each made to happen: a loop that stands, a core that is taken, garbage."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

WATCHED = """
import gc, json, os, time
import gevent.monkey; gevent.monkey.patch_all()
import gevent
from loadproof_clients.load.health import Health
import time

health = Health()
assert health.row() is None
health.begin(time.monotonic_ns())
def stand(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
{deed}
gevent.sleep(1 - (time.monotonic_ns() - health._t0_ns) / 1e9)
print(json.dumps(health.row(sum_us=5.0)))
"""


def row_after(deed: str, *before: str) -> dict[str, Any]:
    """The row that a process makes a second after T0, in which it did `deed`."""
    program = WATCHED.format(deed=textwrap.dedent(deed))
    done = subprocess.run(
        [*before, sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_loop_that_stands_still_is_timed() -> None:
    row = row_after("gevent.sleep(0.1)\nstand(0.4)")
    assert 350 < row["lag_ms"] < 1000 and 340 < row["stood_ms"] < 1000
    assert row["cpu_percent"] > 5 and row["sum_us"] == 5


def test_a_loop_that_is_free_stands_for_no_time_to_speak_of() -> None:
    """Beside what it waited for a core: that is not the loop's doing, and shows in `wait_percent` (of a second)."""
    rows = [row_after("") for _ in range(5)]
    assert min(row["stood_ms"] - 10 * row["wait_percent"] for row in rows) < 20, rows
    assert min(row["gc_ms"] for row in rows) == 0


def test_a_collection_of_garbage_is_timed() -> None:
    row = row_after("rubbish = [[number] for number in range(400_000)]\nfor _ in range(5): gc.collect()")
    assert row["gc_ms"] > 5


def test_a_process_that_shares_its_core_waits_for_it() -> None:
    hog = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-c", "while True: pass"])
    try:
        row = row_after("stand(0.9)", "taskset", "-c", "0")
    finally:
        hog.kill()
        hog.wait()
    assert row["wait_percent"] > 15
