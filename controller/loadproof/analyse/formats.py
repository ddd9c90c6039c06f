"""How figures and shares are written, in reasons, notes and reports."""

from __future__ import annotations

from typing import Final, Literal

ABSENT: Final = "—"


def figure(value: float | None) -> str:
    """Three digits or so: 0.754, 8.01, 12.3, 1,234."""
    if value is None:
        return ABSENT
    size = abs(float(f"{value:.3g}"))  # 0.9999 is 1.00, not 1.000
    digits = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def percent(share: float, digits: int = 0, sign: Literal["", "+"] = "") -> str:
    """`0.256` as `26 %`; with a sign `+26 %`."""
    return f"{100 * share:{sign}.{digits}f} %"
