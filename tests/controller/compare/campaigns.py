"""Synthetic campaigns for comparisons: repeats of a closed loop whose runs differ from each other by a percent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadproof import rundir
from tests.controller import synthetic
from tests.controller.synthetic import Made

Change = Callable[[dict[str, Any]], None]


def made(seed: int, slower: float = 1.0, duration_s: float = 2.0, **load: Any) -> Made:
    spec = synthetic.spec(**load)
    spec["measure"] |= {"warmup_s": 0.5, "duration_s": duration_s}
    level = slower * np.exp(np.random.default_rng(seed).normal(0, 0.01))
    return synthetic.make(seed, service_ms=8.0 * level, of=spec)


def campaign(directory: Path, runs: Sequence[Made], name: str = "quick", change: Change | None = None) -> Path:
    """The runs as repeats of one plan; `change` does what it likes to the facts of campaign.json."""
    names = [f"{name} #{number}" if len(runs) > 1 else name for number in range(1, len(runs) + 1)]
    synthetic.campaign(directory, list(zip(names, runs, strict=True)))
    facts = rundir.read_campaign(directory)
    facts.pop("schema")
    if change:
        change(facts)
    rundir.write_campaign(directory, facts)
    return directory


def repeats(directory: Path, first_seed: int, slower: float = 1.0, count: int = 5, **more: Any) -> Path:
    change = more.pop("change", None)
    runs = [made(seed, slower, **more) for seed in range(first_seed, first_seed + count)]
    return campaign(directory, runs, change=change)
