"""One bounded HTTP GET, as readiness checks want it: past the environment's proxies, and no answer is no exception."""

from __future__ import annotations

import urllib.request
from http.client import HTTPException
from typing import Final

TIMEOUT_S: Final = 2
ANSWER_BYTES_MAX: Final = 16 << 20

# What is measured is reached directly: a site's proxy knows nothing of this machine's loopback.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def get(url: str) -> str | None:
    """The body of a 200 answer; None where nothing, or nothing that is HTTP, answers so."""
    try:
        with _open(url, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(ANSWER_BYTES_MAX)
            return body.decode(errors="replace") if answer.status == 200 else None
    except (OSError, HTTPException, ValueError):  # refused, in time; no HTTP; no URL
        return None
