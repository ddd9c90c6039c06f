"""Was it one model with one configuration, from the first request to the last?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from loadproof.analyse.scrapes import Scrapes
from loadproof_server.dataplane.metric_names import STREAMS

TOLD_MAX: Final = 4


def changes(facts: Mapping[str, Any], samples: pa.Table) -> list[str]:
    """What changed during the run, in words: what the server said of its model before and after, and its streams."""
    name = (facts.get("model") or {}).get("name") or facts.get("spec", {}).get("server", {}).get("model")
    return [*_said(facts.get("server", {}).get("served", [])), *_streams(Scrapes(samples, "server"), name)]


def _said(served: list[Mapping[str, Any] | None]) -> Iterator[str]:
    if len(served) != 2 or served[0] is None or served[1] is None:
        return
    for what in ("metadata", "status"):
        if served[0].get(what) is None or served[1].get(what) is None:
            continue
        before, after = (dict(_facts(what, one[what])) for one in served if one)
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        for key in changed[:TOLD_MAX]:
            yield f"its {key} went from {before.get(key, 'nothing')} to {after.get(key, 'nothing')}"
        if len(changed) > TOLD_MAX:
            yield f"and {len(changed) - TOLD_MAX} more of its {what}"


def _facts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each single thing that was said, by its place (`metadata.inputs.x.shape`); lists of values are one."""
    inner: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list) and all(isinstance(one, dict) for one in value):
        inner = ((one.get("name") or one.get("version") or number, one) for number, one in enumerate(value))
    else:
        yield key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return
    for name, one in inner:
        yield from _facts(f"{key}.{name}", one)


def _streams(scrapes: Scrapes, name: str | None) -> Iterator[str]:
    whole = max((len(values) for values in scrapes.series(STREAMS).values()), default=0)
    for text, values in scrapes.series(STREAMS).items():
        labels = json.loads(text)
        if labels.get("name") != name:
            continue
        if len(np.unique(values)) > 1:
            yield f"its streams went from {values[0]:g} to {values[-1]:g}"
        elif len(values) < whole:
            yield f"version {labels.get('version')} was served for a part of the run only"
