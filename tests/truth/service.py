"""Service models: when a request that comes now is begun and when it leaves; pure, seeded, in ns of one clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

MS = 1_000_000


@dataclass
class Service:
    """The model's clock and its habits; times in ms.

    `queue`: one request at a time, in order (free = max(now, free) + time); else all at once. A `slow_share` of them
    takes `slow_ms` instead of `time_ms`. `noise` is the standard deviation relative to the time. Every `stall_every_ms`
    everything stands still for `stall_ms`. Lies of time: each second takes `slower` of the time more; the first `cold`
    of the load take `cold_ms` longer; what was asked before comes from the cache, in a tenth of the time.
    """

    time_ms: float = 1
    slow_ms: float = 0
    slow_share: float = 0
    noise: float = 0
    queue: bool = False
    stall_ms: float = 0
    stall_every_ms: float = 2000
    slower: float = 0
    cold: int = 0
    cold_ms: float = 0
    cache: bool = False
    seed: int = 1
    _free_ns: int = 0
    _origin_ns: int | None = None
    _served: int = 0
    _known: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.stall_ms and not self.stall_ms < self.stall_every_ms:
            raise ValueError("a stall has to end before the next one begins")
        self._random = random.Random(self.seed)

    def admit(self, now_ns: int, content: bytes, of_load: bool = True) -> tuple[int, int]:
        """(begun, left) of a request that comes at `now_ns`; the stalls' and the slowing's clock starts at the first.

        Calls come in the order of time.
        """
        if self._origin_ns is None:
            self._origin_ns = now_ns
        begun_ns = max(now_ns, self._free_ns) if self.queue else now_ns
        left_ns = self._through_stalls(begun_ns, self._time_ns(now_ns - self._origin_ns, content, of_load))
        self._free_ns = left_ns
        self._served += of_load
        return begun_ns, left_ns

    def _time_ns(self, elapsed_ns: int, content: bytes, of_load: bool) -> int:
        time_ms = self.slow_ms if self._random.random() < self.slow_share else self.time_ms
        if self.noise:
            time_ms *= max(0.0, self._random.gauss(1, self.noise))
        if self.cache:
            time_ms *= 0.1 if content in self._known else 1
            self._known.add(content)
        if of_load and self._served < self.cold:
            time_ms += self.cold_ms
        return round(time_ms * (1 + self.slower * elapsed_ns / 1e9) * MS)

    def _through_stalls(self, begun_ns: int, work_ns: int) -> int:
        """The end of `work_ns` of work from `begun_ns` on; in the last `stall_ms` of each period none is done."""
        if not self.stall_ms:
            return begun_ns + work_ns
        assert self._origin_ns is not None
        stall_ns, period_ns = round(self.stall_ms * MS), round(self.stall_every_ms * MS)
        free_ns = period_ns - stall_ns
        whole, at_ns = divmod(begun_ns - self._origin_ns, period_ns)
        periods, rest_ns = divmod(min(at_ns, free_ns) + work_ns, free_ns)
        return self._origin_ns + (whole + periods) * period_ns + rest_ns
