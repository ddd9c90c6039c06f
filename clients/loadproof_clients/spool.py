"""Records on their way: appended to a worker's local file, shipped in numbered chunks, acknowledged, recovered.

The spool file is RECORD rows and nothing else; chunk n is the n-th slice of it, so that what a lost worker did not
ship is exactly the file's tail. The master accepts chunks in order only and answers with the number that it expects
next; whatever is not acknowledged in time is sent again.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from loadproof_clients.records import RECORD

CHUNK_BYTES_MAX: Final = 1024 * 1024 // RECORD.itemsize * RECORD.itemsize

# Appending a packed row is as quick as assigning to a numpy row (0.43 and 0.50 us), and needs no growing of our own.
ROW: Final = struct.Struct("<qqqqIHHHB??")
assert ROW.size == RECORD.itemsize


def spool_path(directory: Path, pid: int) -> Path:
    """The spool file of a worker that the controller starts: the master knows where it is without being told."""
    return directory / f"loadproof-{pid}.spool"


class BadRecords(ValueError):
    """Rows that the load cannot have made: `str` says what is wrong with them."""


class Chunk(NamedTuple):
    """Slice `number` of a spool file: `offset` and `size` in bytes."""

    number: int
    offset: int
    size: int


class Spool:
    """A worker's record file and what of it is still to be acknowledged.

    `add` only fills memory (it is on the hot path); `flush` writes, and is called about twice a second. Unacknowledged
    chunks are kept by place, not by content, so that memory stays bounded however long the master is away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._file = path.open("xb+", buffering=0)
        self._pending = bytearray()
        self._chunks: deque[tuple[Chunk, float]] = deque()  # with the time it was last sent
        self._next = 0
        self._end = 0

    def add(
        self,
        planned_ns: int,
        sent_ns: int,
        first_byte_ns: int,
        received_ns: int,
        sequence: int,
        client: int,
        payload: int,
        status: int,
        phase: int,
        verified: bool,
        correct: bool,
    ) -> None:
        """Takes one request's record: the fields of RECORD, in order."""
        self._pending += ROW.pack(
            planned_ns, sent_ns, first_byte_ns, received_ns, sequence, client, payload, status, phase, verified, correct
        )
        self.rows += 1

    def flush(self) -> None:
        """Appends what was added since to the file, and cuts it into chunks."""
        pending, self._pending = self._pending, bytearray()
        left = memoryview(pending)
        while left:
            left = left[self._file.write(left) :]
        for start in range(0, len(pending), CHUNK_BYTES_MAX):
            size = min(CHUNK_BYTES_MAX, len(pending) - start)
            self._chunks.append((Chunk(self._next, self._end, size), float("-inf")))
            self._next += 1
            self._end += size

    def due(self, now_s: float, resend_s: float, at_most: int = 4) -> list[Chunk]:
        """Chunks to send now: of the first `at_most` unacknowledged those never sent, or sent `resend_s` ago."""
        due = []
        for index in range(min(at_most, len(self._chunks))):
            chunk, sent_s = self._chunks[index]
            if now_s - sent_s >= resend_s:
                due.append(chunk)
                self._chunks[index] = (chunk, now_s)
        return due

    def read(self, chunk: Chunk) -> bytes:
        """The chunk's rows."""
        self._file.seek(chunk.offset)
        data = self._file.read(chunk.size)
        self._file.seek(0, 2)
        return data

    def acknowledge(self, expected: int) -> None:
        """The receiver has every chunk below number `expected`."""
        while self._chunks and self._chunks[0][0].number < expected:
            self._chunks.popleft()

    @property
    def delivered(self) -> bool:
        """Everything that was added is written and acknowledged."""
        return not self._pending and not self._chunks

    def close(self, *, remove: bool) -> None:
        """Closes the file, and removes it once it is delivered."""
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)


class Receiver:
    """The master's end: one worker's chunks, in order, into one file; `count` is called with what is appended.

    Before that `fault` is asked what is wrong with the rows, and says None where they may be.
    """

    def __init__(
        self,
        path: Path,
        count: Callable[[bytes], None] | None = None,
        fault: Callable[[bytes], str | None] = lambda data: None,
    ) -> None:
        self.expected = 0
        self.rows = 0
        self._path = path
        self._count = count
        self._fault = fault
        self._file = path.open("xb", buffering=0)

    def receive(self, number: int, data: bytes) -> int:
        """Appends the chunk if it is the next one; another is a resend or follows a lost one. Returns the expected.

        Raises BadRecords where the data is not whole rows, or `fault` finds one: then nothing of it is appended.
        """
        if len(data) % RECORD.itemsize:
            raise BadRecords(f"chunk {number}: {len(data)} bytes are not whole records of {RECORD.itemsize}")
        if number == self.expected:
            self._append(data)
            self.expected += 1
        return self.expected

    def recover(self, spool: Path) -> int:
        """Appends what a lost worker's spool file holds beyond the chunks that came: so many rows.

        Raises BadRecords; the pieces before the bad one are appended then.
        """
        recovered = 0
        with spool.open("rb") as file:
            file.seek(self.rows * RECORD.itemsize)
            while whole := len(data := file.read(CHUNK_BYTES_MAX)) // RECORD.itemsize:  # the last row may be torn
                self._append(data[: whole * RECORD.itemsize])
                recovered += whole
        return recovered

    def count(self, status: int) -> int:
        """How many of the records that came have this status."""
        return int((np.fromfile(self._path, RECORD)["status"] == status).sum())

    def _append(self, data: bytes) -> None:
        if fault := self._fault(data):
            raise BadRecords(fault)
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self.rows += len(data) // RECORD.itemsize
        if self._count:
            self._count(data)

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()
