"""The messages that master and workers exchange over Locust's own, in the order of a run; each of a bounded size.

How each is authenticated is in `seal`, the shape of its data in `shapes`.

| message | from | carries |
|---|---|---|
| HELLO | worker | who it is: pid, host, version, machine, clock; whether it joined by `loadproof worker` |
| REFUSED | master | why it is not taken, and whether the next run may take it |
| LOAD | master | the worker's number, the load spec, whether Locust's UI is on, the sizes of the parcels that follow |
| PART | master | a slice of a parcel (payloads, answers, trace: int64 ns); the next one follows its PART_TAKEN |
| LOADED | worker | payloads and answers are decoded and encoded |
| (Locust's spawn) | master | so many users: they connect |
| ARMED | worker | so many clients are connected |
| PING, PONG | both | round trip and clock offset; before START and once more after DONE |
| START | master | T0 on the worker's clock, the number of its first client |
| REPORT | worker | twice a second: COUNTS; each second how busy it is |
| CHUNK, CHUNK_TAKEN | both | records; the chunk number expected next |
| FINISH | master | stop early |
| DONE | worker | all that was sent is recorded and acknowledged; whether it ended before it should have |
| FAILED | worker | why it cannot go on |
| OVER | master | the run is over; whether it was the campaign's last |
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HELLO: Final = "loadproof-hello"
REFUSED: Final = "loadproof-refused"
LOAD: Final = "loadproof-load"
PART: Final = "loadproof-part"
PART_TAKEN: Final = "loadproof-part-taken"
LOADED: Final = "loadproof-loaded"
ARMED: Final = "loadproof-armed"
PING: Final = "loadproof-ping"
PONG: Final = "loadproof-pong"
START: Final = "loadproof-start"
REPORT: Final = "loadproof-report"
CHUNK: Final = "loadproof-chunk"
CHUNK_TAKEN: Final = "loadproof-chunk-taken"
FINISH: Final = "loadproof-finish"
DONE: Final = "loadproof-done"
FAILED: Final = "loadproof-failed"
OVER: Final = "loadproof-over"

# unsent: due, recorded, never sent (open loop); in_flight and connections are now, the others since T0
COUNTS: Final = ("sent", "unsent", "ok", "failed", "wrong", "in_flight", "connections")

PART_BYTES_MAX: Final = 4 * 1024 * 1024


def parts(parcel: bytes) -> Iterator[bytes]:
    """The parcel in slices that fit a message."""
    for start in range(0, len(parcel), PART_BYTES_MAX):
        yield parcel[start : start + PART_BYTES_MAX]


def address(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def version() -> str:
    """Of this Loadproof: master and workers have to be of one."""
    return importlib.metadata.version("loadproof")


def clock() -> str:
    """Names this process's CLOCK_MONOTONIC: two processes with the same name read the same clock."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {_namespace('time')}"


def machine() -> str:
    """Names what pids of this process mean: two processes with the same name see each other's pids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {_namespace('pid')}"


def _namespace(kind: str) -> str:
    link = Path(f"/proc/self/ns/{kind}")
    return link.readlink().name if link.exists() else kind


def epoch_us_at(monotonic_ns: int) -> int:
    """The wall clock's microseconds since the Unix epoch when CLOCK_MONOTONIC reads `monotonic_ns`."""
    return (time.time_ns() + monotonic_ns - time.monotonic_ns()) // 1000
