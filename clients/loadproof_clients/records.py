"""The request record: one row for each request sent, and the names of its phases and statuses.

A worker's file and a shipped chunk are both plain arrays of RECORD; format 2 (1 had no first_byte_ns).
"""

from __future__ import annotations

from typing import Final

import numpy as np

ID_HEADER: Final = "x-loadproof-id"

PHASES: Final = ("reference", "audit", "warmup", "measure", "drain")

UNKNOWN_NS: Final = -(2**63)  # a time that nobody saw; null in requests.parquet

OK: Final = 0
TIMEOUT: Final = 1000  # the client gave up after load.timeout_s
CONNECTION: Final = 1001  # refused, reset or closed before the answer was whole
UNREADABLE: Final = 1002  # an answer came that the client library cannot decode
UNSENT: Final = 1003  # open loop: due while load.max_in_flight were under way, so it was never sent
TOO_LARGE: Final = 1005  # the answer is over load.max_answer_mb: it was not read to its end
LOST: Final = 1004  # the client library never said how it ended: given up some time after the drain

_NAMES: Final = {
    OK: "ok",
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
    TIMEOUT: "timeout",
    CONNECTION: "connection",
    UNREADABLE: "unreadable",
    UNSENT: "unsent",
    LOST: "lost",
    TOO_LARGE: "too_large",
}
OWN_FAILURES: Final = tuple(name for code, name in _NAMES.items() if code >= TIMEOUT and code != UNSENT)
GRPC_CODES: Final = {name: code for code, name in _NAMES.items() if 1 <= code <= 16}

RECORD: Final = np.dtype(
    [
        ("planned_ns", "<i8"),  # from T0, when it was due; closed loop: equal to sent_ns
        ("sent_ns", "<i8"),
        ("first_byte_ns", "<i8"),  # of the answer, its headers included; UNKNOWN_NS where the transport cannot see it
        ("received_ns", "<i8"),  # the whole answer, or the moment the failure was known
        ("sequence", "<u4"),  # counts each worker's requests from 0
        ("client", "<u2"),
        ("payload", "<u2"),
        ("status", "<u2"),
        ("phase", "u1"),
        ("verified", "?"),
        ("correct", "?"),  # False where it was not verified
    ]
)


def status_name(code: int) -> str:
    """`ok`, a gRPC status, the client's own name for what went wrong, or the HTTP status in digits."""
    return _NAMES.get(code, str(code))


def request_id(run: str, worker: int, sequence: int, phase: int) -> str:
    """The id that the request carries in ID_HEADER and that HAProxy logs: unique within a campaign."""
    return f"{run}.{worker}.{sequence}.{PHASES[phase][0]}"
