"""Joins client records and balancer rows by request id, as numbers: as strings ten million would take a gigabyte."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loadproof import rundir
from loadproof_clients.records import PHASES

Ints = NDArray[np.int64]
UNKNOWN: Final = -1
_LETTERS: Final = "".join(phase[0] for phase in PHASES)
_WORKER_BITS, _SEQUENCE_BITS, _PHASE_BITS = 17, 34, 3  # hold 5 digits, 10 digits, a phase


def keys(ids: pa.Array, run: str) -> Ints:
    """Each id's worker, sequence and phase in one number, equal for equal ids; UNKNOWN for one that is not `run`'s."""
    ids = pc.fill_null(ids, "")
    known = pc.match_substring_regex(ids, rf"^{re.escape(run)}\.\d{{1,5}}\.\d{{1,10}}\.[{_LETTERS}]$")
    texts = ids.filter(known).cast(pa.string())
    result = np.full(len(ids), UNKNOWN, np.int64)
    if len(texts):
        result[known.to_numpy(zero_copy_only=False)] = _numbers(texts, len(run))
    return result


def worker_of(key: Ints) -> Ints:
    return np.asarray(key >> (_SEQUENCE_BITS + _PHASE_BITS))


def phase_of(key: Ints) -> Ints:
    """Index into PHASES."""
    return np.asarray(key & ((1 << _PHASE_BITS) - 1))


def matching(requests: Ints, rows: Ints) -> Ints:
    """For each request's key the index of a balancer row with that key, -1 where there is none."""
    if not len(rows):
        return np.full(len(requests), -1)
    order = np.argsort(rows)
    ordered = rows[order]
    place = np.searchsorted(ordered, requests)
    place[place == len(ordered)] = 0
    found = (ordered[place] == requests) & (requests != UNKNOWN)
    return np.where(found, order[place], -1)


@dataclass(frozen=True)
class Joined:
    """For each record (in the order of requests.parquet) its balancer row or -1, and each row's key."""

    row: Ints
    row_keys: Ints


def join(run: Path) -> Joined:
    """Joins the run's requests.parquet and balancer.parquet."""
    prefix = _prefix(rundir.request_pieces(run, ["id"])) or _prefix(rundir.balancer_pieces(run, ["id"]))
    row_keys = _all_keys(rundir.balancer_pieces(run, ["id"]), prefix)
    return Joined(matching(_all_keys(rundir.request_pieces(run, ["id"]), prefix), row_keys), row_keys)


def _prefix(pieces: Iterable[pa.Table]) -> str:
    """The run's part of the first id that has four parts; "" where there is none."""
    for piece in pieces:
        well = piece["id"].filter(pc.match_substring_regex(piece["id"], r"^[^.]+\.\d+\.\d+\.[a-z]$"))
        if len(well):
            return str(well[0].as_py()).partition(".")[0]
    return ""


def _all_keys(pieces: Iterable[pa.Table], run: str) -> Ints:
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *(keys(piece["id"].combine_chunks(), run) for piece in pieces)])


def _numbers(texts: pa.StringArray, run_length: int) -> Ints:
    """The key of each well-formed id `<run>.<worker>.<sequence>.<letter>`, from its bytes."""
    _, offsets, data = texts.buffers()
    at = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    octets = np.frombuffer(data, np.uint8)
    dots = np.flatnonzero(octets[at[0] : at[-1]] == ord(".")).reshape(len(texts), 3) + at[0]
    worker = _decimal(octets, at[:-1] + run_length + 1, dots[:, 1])
    sequence = _decimal(octets, dots[:, 1] + 1, dots[:, 2])
    phases = np.zeros(256, np.int64)
    phases[[ord(letter) for letter in _LETTERS]] = range(len(PHASES))
    phase = phases[octets[dots[:, 2] + 1]]
    return np.asarray((worker << (_SEQUENCE_BITS + _PHASE_BITS)) | (sequence << _PHASE_BITS) | phase)


def _decimal(octets: NDArray[np.uint8], start: Ints, end: Ints) -> Ints:
    """The decimal number that stands in octets[start:end], for each pair."""
    value = np.zeros(len(start), np.int64)
    for back in range(int((end - start).max()), 0, -1):
        place = end - back
        there = place >= start
        value = np.where(there, value * 10 + octets[place] - ord("0"), value)
    return value
