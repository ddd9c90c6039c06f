"""Every reason made to happen for real: a lying, dying or changed server, hogs, workers that stumble, a stranger."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from loadproof.analyse.checks import REASONS
from tests.ports import free_ports
from tests.server.small_models import Server, scale_model, wait_ready
from tests.truth.house import FLOATS, ID_HEADER, MODEL
from tests.truth.rest_side import LENGTH
from tests.truth.session import ROOT, Outcome, TruthServer, finish, start_loadproof, truth_server

Act = Callable[[TruthServer, "subprocess.Popen[str]"], object]

OPEN: Final = {"arrivals": "constant", "rate_rps": 80.0, "clients": 4}
AT_ONCE: Final = 2
HOGS: Final = 4
WORKER: Final = "loadproof_clients.load.worker"
TOKEN: Final = "a token that only the tests know"


def until_measuring(process: subprocess.Popen[str]) -> None:
    """The run has said that its window began."""
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if line.endswith(": measuring\n"):
            return
    raise AssertionError(f"the run ended before its window began: {told}")


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    """What `condition` gives, as soon as that is something."""
    end_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.05)
    return found


def children(process: subprocess.Popen[str], part: str) -> list[psutil.Process]:
    """Those of the run whose command line has that part."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        return [one for one in family if part in " ".join(one.cmdline())]
    return []


def child(process: subprocess.Popen[str], part: str) -> psutil.Process:
    return children(process, part)[0]


def restart_server(server: TruthServer, process: subprocess.Popen[str]) -> None:
    """It is somebody else's: nobody is told, and HAProxy answers for it until it is there again."""
    until_measuring(process)
    time.sleep(1)
    server.process.kill()
    server.process.wait()
    ports = [address.rpartition(":")[2] for address in (server.grpc, server.rest)]
    flags = ("--port", ports[0], "--rest-port", ports[1], "--delay-ms", "5")
    with truth_server(server.log.with_name("again"), *flags):
        process.wait(timeout=60)


def restart_worker(server: TruthServer, process: subprocess.Popen[str]) -> None:
    """One of two is killed, and started again as it was."""
    until_measuring(process)
    worker = child(process, WORKER)
    command = worker.cmdline()
    worker.kill()
    time.sleep(0.5)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as again:
        assert again.stdin is not None
        again.stdin.write(f"{TOKEN}\n".encode())
        again.stdin.flush()
        process.wait(timeout=60)


def starve_worker(server: TruthServer, process: subprocess.Popen[str]) -> None:
    """It stands still for 130 ms in every 200."""
    until_measuring(process)
    worker = child(process, WORKER)
    for _ in range(75):
        worker.suspend()
        time.sleep(0.13)
        worker.resume()
        time.sleep(0.07)


def disturb(server: TruthServer, process: subprocess.Popen[str]) -> None:
    """One of two workers is held back when they begin; another program, no child of the run, wants a core; and in the
    middle of the window the wall clock of the load's processes is set forward.
    """
    worker = until(lambda: next(filter(knows_when_to_begin, children(process, WORKER)), None))
    worker.suspend()
    until(lambda: any(visit["id"].endswith(".w") for visit in server.visits()))
    time.sleep(0.5)
    worker.resume()
    until_measuring(process)
    with hogs(1):
        time.sleep(5)
        (server.log.parent / "stepped").touch()
        time.sleep(5)


def knows_when_to_begin(worker: psutil.Process) -> bool:
    """It waits for T0, by a timer."""
    place = Path(f"/proc/{worker.pid}/fd")
    with contextlib.suppress(OSError):
        return any(os.readlink(file) == "anon_inode:[timerfd]" for file in place.iterdir())
    return False


def crowd(server: TruthServer, process: subprocess.Popen[str]) -> None:
    """Hogs, on the one core that the load and the balancer have as well, and they get the most of it."""
    until_measuring(process)
    for one in [*children(process, WORKER), *children(process, "haproxy")]:
        one.nice(10)
        with contextlib.suppress(FileNotFoundError):  # where the kernel shares a core among sessions first
            Path(f"/proc/{one.pid}/autogroup").write_text("10")
        time.sleep(0.2)  # one change in a tenth of a second
    with hogs(HOGS):
        time.sleep(5)


@contextlib.contextmanager
def hogs(number: int) -> Iterator[None]:
    """Other programs that want a core each; of sessions of their own, for the kernel shares a core among sessions."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            hog = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
            )
            stack.callback(hog.kill)
        yield


def reconfigure(server: TruthServer, process: subprocess.Popen[str]) -> None:
    """The model gets a second stream and is loaded again, in the middle of the window and under load."""
    until_measuring(process)
    time.sleep(1)
    configure(server.log.with_name("config.json"), streams=2)
    asked = urllib.request.Request(f"http://{server.rest}/v1/config/reload", method="POST")
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status == 201


def intrude(server: TruthServer, process: subprocess.Popen[str]) -> None:
    """Somebody else asks the balancer under ids like the run's own, and the server behind its back; then what collects
    the balancer's log is killed.
    """
    until_measuring(process)
    run = server.visits()[-1]["id"].partition(".")[0]
    balancer = child(process, "haproxy").environ()["REST_BIND"]
    for number in range(5):
        ask(balancer, f"{run}.1.{1_000_000 + number}.m")
    for _ in range(3):
        ask(server.rest, "a stranger's")
    time.sleep(0.5)
    child(process, "log_collector").kill()


def ask(address: str, name: str) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [1, FLOATS], "parameters": {"binary_data_size": 4 * FLOATS}}
    head = json.dumps({"inputs": [x]}).encode()
    headers = {LENGTH: str(len(head)), ID_HEADER: name}
    request = urllib.request.Request(f"http://{address}/v2/models/{MODEL}/infer", head + bytes(4 * FLOATS), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


# What the load's processes run at their start: a clock of their own that is set when there is a file.
CLOCK: Final = """import os, sys, time
if "loadproof_clients.load.worker" in sys.orig_argv:
    now_ns = time.time_ns
    time.time_ns = lambda: now_ns() + 250_000_000 * os.path.exists({flag!r})
"""


def configure(path: Path, streams: int) -> None:
    entry = {"name": MODEL, "base_path": str(path.with_name(MODEL)), "plugin_config": {"NUM_STREAMS": str(streams)}}
    content = {"model_config_list": [{"config": entry}], "monitoring": {"metrics": {"enable": True}}}
    path.write_text(json.dumps(content))


@contextlib.contextmanager
def loadproof_server(log: Path) -> Iterator[TruthServer]:
    """Loadproof's own server on a configuration file, as somebody else would run it; it logs no truth."""
    scale_model(log.with_name(MODEL), 2.0)
    configure(log.with_name("config.json"), streams=1)
    grpc_port, rest_port = free_ports(2)
    command = [sys.executable, "-m", "loadproof_server.main", "--config_path", str(log.with_name("config.json"))]
    command += ["--port", str(grpc_port), "--rest_port", str(rest_port)]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, text=True) as process:
        try:
            server = Server(process, grpc_port, rest_port)
            wait_ready(server)
            yield TruthServer(server.grpc, server.rest, log, process)
        finally:
            process.terminate()


@dataclass(frozen=True)
class Harm:
    """The reasons that it is told by, each with words of its message or cure; flags of the server, the load, its
    measure, what happens meanwhile, and what the run has of the machine.
    """

    told: Mapping[str, str]
    flags: tuple[str, ...] = ("--delay-ms", "5")
    load: Mapping[str, Any] = field(default_factory=lambda: {"clients": 2})
    warmup_s: float = 0.5
    duration_s: float = 2
    act: Act | None = None
    server: Callable[..., contextlib.AbstractContextManager[TruthServer]] = truth_server
    one_core: bool = False
    open_files: int | None = None


HARMS: Final = (
    Harm(
        {"in_flight_limit": "300 were under way", "queue_growing": "more is offered than the server can do"}
        | {"late_sends": "over 10 ms after they were due", "generator_saturated": "stood still for"},
        ("--delay-ms", "20", "--queue"),
        OPEN | {"max_in_flight": 300},
        duration_s=14,  # a reading takes longer than a second, and bounds need ten
        act=starve_worker,
    ),
    Harm(
        {"not_steady": "Latency changed by +", "other_load": "Something else used"}
        | {"started_apart": "The workers began", "clock_stepped": "of worker 1 by 2"},
        ("--delay-ms", "10", "--slower", "1"),
        {"clients": 2, "processes": 2},
        duration_s=10,
        act=disturb,
    ),
    Harm({"cached_answers": "answers come from a cache"}, ("--delay-ms", "10", "--cache"), {"protocol": "rest"}),
    Harm(
        {"cold_start": "Lengthen", "littles_law": "reaches over the window's edges"},
        ("--delay-ms", "5", "--cold", "110", "--cold-ms", "1500"),
        OPEN,
        warmup_s=1,  # what is sent in it is answered after it, although the load may stumble at its start
        duration_s=4,
    ),
    Harm({"too_few_samples": "p50 11"}, ("--delay-ms", "5", "--cold", "100", "--cold-ms", "700")),
    Harm(
        {"no_requests": "No request was sent"},
        ("--delay-ms", "5", "--cold", "1", "--cold-ms", "2500"),
        {"clients": 1},
        duration_s=1,
    ),
    Harm({"reference_failed": "could not be taken"}, ("--delay-ms", "400"), {"timeout_s": 0.2}),
    Harm(
        {"restarted": "the counters of the server began again", "balancer_interfered": "answered itself"}
        | {"failed_answers": "requests failed: "},
        duration_s=6,
        act=restart_server,
    ),
    Harm(
        {"worker_died": "died", "worker_restarted": "began again, too late"},
        load={"clients": 2, "processes": 2},
        duration_s=6,
        act=restart_worker,
    ),
    Harm(
        {"unaccounted_requests": "5 requests of the window", "witnesses_disagree": "the server counted"}
        | {"log_lines_dropped": "lines of the balancer's log were lost"},
        load={"protocol": "rest", "clients": 2},
        act=intrude,
    ),
    Harm(
        {"connection_limit": "The balancer took no more connections"},
        ("--delay-ms", "5", "--cold", "150", "--cold-ms", "1000"),
        OPEN | {"protocol": "rest", "rate_rps": 200.0},
        open_files=256,
    ),
    Harm(
        {"shared_cores": "its own threads waited"},
        ("--delay-ms", "1"),
        {"clients": 1},
        duration_s=4,
        act=crowd,
        one_core=True,
    ),
    Harm({"model_changed": "streams went from 1 to 2"}, (), duration_s=4, act=reconfigure, server=loadproof_server),
)


@contextlib.contextmanager
def cores(most: int) -> Iterator[None]:
    """This thread and all that it starts have so many cores; 0: all."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[: most or None])
    yield
    os.sched_setaffinity(0, before)


def harmed(harm: Harm, place: Path) -> Outcome:
    measure = {"warmup_s": harm.warmup_s, "duration_s": harm.duration_s, "drain_s": 2}
    (place / "sitecustomize.py").write_text(CLOCK.format(flag=str(place / "stepped")))
    before = ["prlimit", f"--nofile={harm.open_files}", "--"] if harm.open_files else []
    with harm.server(place / "log", *harm.flags) as server, cores(1 if harm.one_core else 0):
        process = start_loadproof(
            server, place / "out", harm.load, measure, before=before, PYTHONPATH=str(place), LOADPROOF_TOKEN=TOKEN
        )
        if harm.act:
            harm.act(server, process)
        return finish(process, place / "out")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    """By each reason that is to be told."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = [(harm, pool.submit(harmed, harm, tmp_path_factory.mktemp(min(harm.told)))) for harm in HARMS]
        yield {code: end for harm, end in ends for code in harm.told}


WORDS: Final = {code: words for harm in HARMS for code, words in harm.told.items()}


@pytest.mark.parametrize("code", WORDS)
def test_what_happened_to_the_run_is_told_with_its_cure(outcomes: dict[str, Future[Outcome]], code: str) -> None:
    outcome = outcomes[code].result()
    reasons = {reason["code"]: reason for reason in outcome.run["reasons"]}
    assert code in reasons, (outcome.run["reasons"], outcome.run["machine"], outcome.run["generator"])
    reason = reasons[code]
    assert WORDS[code] in f"{reason['message']} {reason['remedy']}"
    assert "".join(reason["message"].split()) in "".join(outcome.output.split())


# Where the other reasons happen for real, or out of recorded /proc and /sys.
ELSEWHERE: Final = {
    "interrupted": "test_end_to_end.py::test_an_interrupted_run_saves_what_it_has_and_leaves_nothing",
    "server_died": "test_end_to_end.py::test_a_party_that_is_killed_makes_the_run_invalid_and_keeps_the_records",
    "balancer_died": "test_end_to_end.py::test_a_party_that_is_killed_makes_the_run_invalid_and_keeps_the_records",
    "wrong_answers": "test_truth.py::test_every_lie_is_counted_and_makes_the_run_invalid",
    "near_ceiling": "controller/test_calibration.py::test_a_run_at_the_ceiling_and_one_that_is_all_floor_are_told_so",
    "mostly_floor": "controller/test_calibration.py::test_a_run_at_the_ceiling_and_one_that_is_all_floor_are_told_so",
    "cpu_stolen": "controller/collect/test_machine.py::test_what_the_kernel_shows_of_a_disturbance_is_its_reason_alone",
    "cpu_speed_changed": "controller/collect/test_machine.py::"
    "test_what_the_kernel_shows_of_a_disturbance_is_its_reason_alone",
}


def test_every_reason_has_a_test_in_which_it_happens() -> None:
    assert sorted([*WORDS, *ELSEWHERE]) == sorted(reason.code for reason in REASONS)
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text()
