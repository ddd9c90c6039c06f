"""Makes glibc keep freed memory, so that each request's tensors need not fetch it from the kernel anew.

By default glibc returns the top of its heap once that is larger than twice the largest block. Each request of some
100 KiB then faults all its pages in again, which takes 2 to 3 us a page on a virtual machine: receiving 600 KiB in
frames of 16 KiB took 430 us of CPU, and takes 120 with fixed thresholds (2026-11-24). Blocks over MMAP_BYTES, and what
is free beyond TRIM_BYTES, go back as before. TRIM_BYTES are of each arena, and every thread would have one of its own
(eight idle infer threads kept 384 MiB), so there are ARENAS. Any MALLOC_* variable of the environment switches all of
this off.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

MMAP_BYTES: Final = 1 << 25  # glibc takes no more
TRIM_BYTES: Final = 1 << 26
ARENAS: Final = 2
_M_TRIM_THRESHOLD: Final = -1  # of malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def keep_freed_memory() -> None:
    """Call it once, at the start; it does nothing with another C library than glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)
    mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)
    mallopt(_M_ARENA_MAX, ARENAS)
