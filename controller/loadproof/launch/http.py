"""Bounded HTTP requests, as readiness checks want them: no answer is no exception."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from loadproof.collect import pages

TIMEOUT_S: Final = 2
ANSWER_BYTES_MAX: Final = 4 << 20


def get(url: str, note: Callable[[str], object] = str) -> str | None:
    """The body of a 200 answer; None where nothing, or nothing that is HTTP, answers so within TIMEOUT_S in all.

    `note` is told where the answer came too slowly or was too large.
    """
    try:
        status, body = pages.fetch(url, TIMEOUT_S, bytes_max=ANSWER_BYTES_MAX)
    except pages.BoundMet as bound:
        note(f"{url}: {bound}")
        return None
    except pages.ERRORS:
        return None
    return body.decode(errors="replace") if status == 200 else None


def post(url: str, timeout_s: float = TIMEOUT_S, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and body of the answer to a POST without a body; 0 and the reason where there was none."""
    try:
        status, body = pages.fetch(url, timeout_s, bytes_max=ANSWER_BYTES_MAX, post=headers or {})
    except pages.ERRORS as error:
        return 0, str(error)
    return status, body.decode(errors="replace")
