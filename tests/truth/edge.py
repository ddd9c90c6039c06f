"""What a server with one place can keep: the latencies of its queue, and the highest rate under a limit of them."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from tests.truth.session import Floats

REQUESTS: Final = 4_000_000
HALVINGS: Final = 16


def sojourn_s(at_s: Floats, service_s: Floats) -> Floats:
    """How long requests that come `at_s` (ascending) stay, waiting included, where each is served for `service_s`.

    Source: Lindley, "The Theory of Queues with a Single Server" (1952): a wait is what the service times were ahead of
    the gaps, over the least that they had been.
    """
    ahead = np.concatenate([[0.0], np.cumsum(service_s[:-1] - np.diff(at_s))])
    return ahead - np.minimum.accumulate(ahead) + service_s


def highest_rate_rps(
    arrivals: Literal["constant", "poisson"], service_s: Floats, p: float, limit_s: float, seed: int = 1
) -> float:
    """The highest rate at which the p-quantile of a queue's latencies is within the limit, over REQUESTS of them.

    Each takes one of the `service_s` at random. A rate over one place's capacity is kept by no queue.
    """
    rng = np.random.default_rng(seed)
    service = rng.choice(service_s, REQUESTS)
    gaps = rng.exponential(1, REQUESTS) if arrivals == "poisson" else np.ones(REQUESTS)
    at = np.cumsum(gaps)
    low_rps, high_rps = 0.0, 1 / float(service.mean())
    for _ in range(HALVINGS):
        rate_rps = (low_rps + high_rps) / 2
        slow = float((sojourn_s(at / rate_rps, service) > limit_s).mean())
        low_rps, high_rps = (rate_rps, high_rps) if slow <= 1 - p else (low_rps, rate_rps)
    return low_rps
