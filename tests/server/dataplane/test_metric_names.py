from __future__ import annotations

from itertools import pairwise

from loadproof_server.dataplane.metric_names import BUCKETS_US


def test_the_buckets_are_those_of_ovms() -> None:
    assert len(BUCKETS_US) == 33
    assert BUCKETS_US[:6] == (10, 18, 32, 58, 104, 188)
    assert all(low < high for low, high in pairwise(BUCKETS_US))
