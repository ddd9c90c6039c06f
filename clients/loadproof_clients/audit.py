"""Does the server answer what it was asked before from a cache? Fresh inputs, interleaved with one that is repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from zlib import crc32

from loadproof_clients.payloads import making
from loadproof_clients.payloads.shapes import Input, PayloadError
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import Tensors

PAIRS: Final = 32
SECONDS_MAX: Final = 10.0
TRIED: Final = 2  # pairs after which it is seen whether all of them fit into SECONDS_MAX


def inputs(model: Sequence[Input], spec: LoadSpec) -> list[Tensors]:
    """At most PAIRS distinct requests that the server has not seen.

    Random values and rendered pictures have a seed of this run's own; files are what they are: in a second run, and
    with fewer than PAIRS of them, the audit sees less.
    """
    own = {"payloads": PAIRS, "seed": crc32(spec.run.encode()) ^ spec.load.seed}
    for load in (spec.load.model_copy(update=own), spec.load):
        try:
            return list(making.make(model, load))
        except PayloadError:  # so many are too large together
            continue
    return []


def order(count: int) -> Iterator[tuple[int, bool]]:
    """(number of the input, whether a pair ends with it): each of the fresh inputs, and after each the first again."""
    for number in range(count):
        yield number, False
        yield 0, True


def is_over(pairs: int, elapsed_s: float, quickest_s: float) -> bool:
    """Whether it would take too long to go on after so many pairs."""
    return elapsed_s > SECONDS_MAX or (pairs == TRIED and 2 * PAIRS * quickest_s > SECONDS_MAX)
