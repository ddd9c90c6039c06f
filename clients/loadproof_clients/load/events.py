"""The master's events on standard output, a JSON line each: the controller reads them."""

from __future__ import annotations

import json
from typing import Any


def say(event: str, **fields: Any) -> None:
    """One event."""
    print(json.dumps({"event": event, **fields}), flush=True)
