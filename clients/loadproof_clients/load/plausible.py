"""Whether the load can have made the records that a worker sends: what else would break whoever reads them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from loadproof_clients.records import LOST, PHASES, RECORD, TIMEOUT, UNKNOWN_NS
from loadproof_clients.spec import REQUESTS_MAX, LoadSpec

AHEAD_NS: Final = 10_000_000_000  # of the master's clock: so far off no clock of a worker is
UNDER_WAY_MAX: Final = 1 << 20  # requests of a worker that have a number and no record yet: far more than there are
_FIRST_PHASE: Final = PHASES.index("warmup")  # the earlier ones are the preparation's

# RECORD with the bytes of its booleans as they came: numpy takes any but 0 for True
_RAW: Final = np.dtype([(name, RECORD[name].str.replace("|b1", "u1")) for name in RECORD.fields or ()])
Rows = npt.NDArray[np.void]


class Plausible:
    """One worker's rows, piece by piece; its numbers are remembered, as each request has its own."""

    def __init__(self, spec: LoadSpec) -> None:
        self._payloads = spec.load.payloads
        self._seen = np.zeros(0, np.bool_)  # by sequence
        self._rows = 0

    def fault(self, data: bytes, first_client: int, clients: int, now_ns: int) -> str | None:
        """What is wrong with these rows of a worker of so many clients, `now_ns` after T0; None where they may be."""
        rows = np.frombuffer(data, _RAW)
        phase, status = rows["phase"], rows["status"]
        verified, correct = rows["verified"], rows["correct"]
        wrong = {
            "a phase that there is not": (phase < _FIRST_PHASE) | (phase >= len(PHASES)),
            "a status that there is not": (status > LOST) | ((status >= 1000) & (status < TIMEOUT)),
            "a payload that there is not": rows["payload"] >= self._payloads,
            "another worker's client": (rows["client"] < first_client) | (rows["client"] >= first_client + clients),
            "neither yes nor no": (verified > 1) | (correct > 1) | (correct > verified),
            "times that cannot be": _wrong_times(rows, now_ns),
        }
        for what, where in wrong.items():
            if where.any():
                return f"request {rows['sequence'][where.argmax()]} of {len(rows)} has {what}"
        return self._wrong_numbers(rows["sequence"])

    def _wrong_numbers(self, sequence: npt.NDArray[np.uint32]) -> str | None:
        if not len(sequence):
            return None
        self._rows += len(sequence)
        most = int(sequence.max())
        if self._rows > REQUESTS_MAX or most > self._rows + UNDER_WAY_MAX:
            return f"request {most} of {self._rows} is one that the load does not have"
        if most >= len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros(2 * most + 1024 - len(self._seen), np.bool_)])
        reach = self._seen[int(sequence.min()) : most + 1]
        before = np.count_nonzero(reach)
        self._seen[sequence] = True
        return None if np.count_nonzero(reach) - before == len(sequence) else "a request came twice"


def _wrong_times(rows: Rows, now_ns: int) -> npt.NDArray[np.bool_]:
    planned, sent, first_byte, received = (rows[f"{name}_ns"] for name in ("planned", "sent", "first_byte", "received"))
    in_order = (planned >= 0) & (planned <= sent) & (sent <= received) & (received <= now_ns + AHEAD_NS)
    seen = first_byte != UNKNOWN_NS
    wrong: npt.NDArray[np.bool_] = ~in_order | (seen & ((first_byte < sent) | (first_byte > received)))
    return wrong
