"""A worker with the token that does one thing wrong, once the run has begun or before.

python -m tests.clients.bad_worker --port P --spool DIR     and FAULT in the environment, a key of FAULTS
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Final

import gevent

from loadproof_clients.load import messages, worker
from loadproof_clients.load.worker import Worker
from loadproof_clients.records import RECORD


def with_byte(offset: int, value: int) -> Callable[[bytes], bytes]:
    """Changes a byte of the last row."""
    place = offset - RECORD.itemsize
    return lambda data: data[:place] + bytes([value]) + (data[place + 1 :] if place + 1 else b"")


def offset(field: str) -> int:
    assert RECORD.fields is not None
    return int(RECORD.fields[field][1])


ROWS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "phase": with_byte(offset("phase"), 99),
    "status": with_byte(offset("status") + 1, 0xFF),
    "payload": with_byte(offset("payload"), 0xFF),
    "client": with_byte(offset("client") + 1, 0xFF),
    "verified": with_byte(offset("verified"), 7),
    "time": with_byte(offset("received_ns") + 7, 0x7E),
    "doubled": lambda data: data + data,
    "torn": lambda data: data[:-1],
}


def spoil(fault: str) -> None:
    """Changes what Worker sends, or says more than it should."""
    send = Worker._send

    def changed(self: Worker, name: str, **data: Any) -> None:
        if name == messages.CHUNK and fault in ROWS:
            data["data"] = ROWS[fault](data["data"])
        elif name == messages.ARMED and fault == "clients":
            data["clients"] = 1_000_000_000
        send(self, name, **data)
        if name == messages.HELLO and fault == "hello":
            send(self, name, **data)
        elif name == messages.LOADED and fault == "shapes":
            send(self, "exception", msg=1)
            send(self, messages.PONG, number="x")
            send(self, "stats", stats=[{}], stats_total={}, errors={"a": {}}, user_classes_count={}, user_count=1)
        elif name == messages.REPORT and fault == "flood" and data["sent"]:
            for _ in range(20_000):
                send(self, name, **data)
                gevent.sleep(0)

    Worker._send = changed  # type: ignore[method-assign]


def main() -> int:
    spoil(os.environ["FAULT"])
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
