"""Reads TOML that may be anybody's, in bounded time: nothing in a plan is nested deeply.

tomllib takes time with the square of a dotted key's parts (87 s for 50,000), and Python's stack ends what is nested
about a thousand deep, here or in whatever looks at the tables later.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

DEPTH_MAX: Final = 32  # a plan needs 5
TOO_DEEP: Final = f"nested more than {DEPTH_MAX} deep; a plan needs no more than five"
SHOWN: Final = 60
_PART: Final = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
# It starts at no letter within a word: a long one would be read again from each of its letters.
_DEEP_KEY: Final = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{DEPTH_MAX},}}")


class TooDeep(ValueError):
    """Its message is TOO_DEEP."""

    def __init__(self) -> None:
        super().__init__(TOO_DEEP)


def parse(text: str) -> dict[str, Any]:
    """The tables of a TOML document. ValueError: it is none (tomllib's message), or is nested too deep (TooDeep)."""
    if is_deep(text):
        raise TooDeep
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise TooDeep from None
    level: list[Any] = [tables]
    for _ in range(DEPTH_MAX):
        level = [one for item in level for one in _inside(item)]
    if level:
        raise TooDeep
    return tables


def is_deep(text: str) -> bool:
    """Whether a dotted key in it has more than DEPTH_MAX parts."""
    return _DEEP_KEY.search(text) is not None


def short(text: str) -> str:
    """Of a long text its beginning, for a message."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _inside(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []
