"""Bounded HTTP requests, as readiness checks want them: past the environment's proxies, no answer is no exception."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
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


def post(url: str, timeout_s: float = TIMEOUT_S, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and body of the answer to a POST without a body; 0 and the reason where there was none."""
    request = urllib.request.Request(url, data=b"", headers=dict(headers or {}))
    try:
        with _open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read(ANSWER_BYTES_MAX).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(ANSWER_BYTES_MAX).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return 0, str(error)
