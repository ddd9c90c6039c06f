"""Finds the files that are not code: HAProxy's and Prometheus' configuration, and the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
CHECKOUT: Final = _ROOT if (_ROOT / "pyproject.toml").exists() else None  # None: a wheel is installed


def path(name: str) -> Path:
    """The file of that name in the repository, as in `haproxy/haproxy.cfg`: out of the wheel, else of the checkout."""
    shipped = Path(__file__).parent / "shipped" / name
    return shipped if shipped.exists() else _ROOT / name
