"""Reads pages in Prometheus' text format; the one reader of them in the controller.

prometheus-client's parser takes 5 ms of CPU for the wanted lines of our server's page (14.6 kB, 170 samples) and
3 ms for those of HAProxy's (78 kB, 177 samples); this one 0.2 and 0.4 ms, as the series of a page are the same from
one scrape to the next and are read once (the first time: 1.6 and 1.3 ms). Median of 200, November 2026, two shared
cores. At a scrape a second that is 0.8 % of a core against 0.06 %, on a machine that may be the measured one.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping

from loadproof.collect.pages import BoundMet

Series = tuple[str, str]  # sample name; labels as JSON with sorted keys

# Of a page's wanted lines. A run's samples name their series by 16 bits: two pages' and the machine's fit.
SERIES_MAX = 12_000
LINE_CHARACTERS_MAX = 4096

_SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,\s*|$)')
_TIMESTAMPED = re.compile(r"(.*[\s}])(\S+)\s+-?\d+")
_ESCAPED = re.compile(r"\\(.)")


def parse(text: str, wanted: str | tuple[str, ...] = "") -> dict[Series, float]:
    """The samples whose names begin with one of `wanted`, under the names that they have on the page.

    ValueError: not that format, or (BoundMet) more than SERIES_MAX of them, or a line of over LINE_CHARACTERS_MAX.
    """
    found: dict[Series, float] = {}
    for line in text.splitlines():
        if line.startswith(wanted) and line and line[0] != "#":
            if len(found) >= SERIES_MAX:
                raise BoundMet(f"the page has more than {SERIES_MAX:,} series")
            if len(line) > LINE_CHARACTERS_MAX:
                raise BoundMet(f"a line of the page is over {LINE_CHARACTERS_MAX:,} characters")
            try:
                series, value = line.rsplit(None, 1)
                found[_series(series)] = float(value)
            except ValueError:
                series, value = _without_timestamp(line)
                found[_series(series)] = float(value)
    return found


def values(samples: Mapping[Series, float], name: str, /, **labels: str) -> list[float]:
    """The values of the samples of that name that have those labels, whatever else they have."""
    wanted = labels.items()
    return [value for (found, text), value in samples.items() if found == name and wanted <= json.loads(text).items()]


def _without_timestamp(line: str) -> tuple[str, str]:
    stamped = _TIMESTAMPED.fullmatch(line)
    if stamped is None or not _is_number(stamped[2]):
        raise ValueError(f"not a sample of Prometheus' text format: {line[:200]}")
    return stamped[1], stamped[2]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=2 * SERIES_MAX)
def _series(text: str) -> Series:
    match = _SERIES.fullmatch(text)
    if match is None:
        raise ValueError(f"not a series of Prometheus' text format: {text[:200]}")
    return match[1], json.dumps(_labels(match[2] or ""), sort_keys=True)


def _labels(text: str) -> dict[str, str]:
    found = {}
    at = 0
    while at < len(text):
        label = _LABEL.match(text, at)
        if label is None:
            raise ValueError(f"not labels of Prometheus' text format: {text[:200]}")
        found[label[1]] = _ESCAPED.sub(lambda escaped: {"n": "\n"}.get(escaped[1], escaped[1]), label[2])
        at = label.end()
    return found
