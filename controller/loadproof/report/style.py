"""The one look of the report's charts: colours, layout, axes and how figures are shortened."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

INK: Final = "#1d2733"
QUIET: Final = "#66717f"
GRID: Final = "#e7eaee"
BLUE: Final = "#2b6a99"
PALE: Final = "#a9c6dc"
ORANGE: Final = "#d9822b"
RED: Final = "#b3261e"
PURPLE: Final = "#8a5a83"
BAND: Final = "rgba(43, 106, 153, 0.16)"
SHADE: Final = "rgba(102, 113, 127, 0.10)"
VERDICTS: Final = {"VALID": "#1b7f5a", "FLAGGED": "#b7791f", "INVALID": RED}

Array = NDArray[Any]
# What plotly.js takes is open: https://plotly.com/javascript/reference/
Trace: TypeAlias = "dict[str, Any]"  # of a chart's data
Layout: TypeAlias = "dict[str, Any]"  # and its axes
Chart: TypeAlias = "dict[str, Any]"  # {data, layout}


def layout(height_px: int, **more: Any) -> Layout:
    """The one look of all charts; `more` goes on top."""
    return {
        "height": height_px,
        "margin": {"l": 56, "r": 16, "t": 24, "b": 44},
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": QUIET},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        **more,
    }


def axis(title: str | None, **more: Any) -> Layout:
    colors = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID}
    return {**colors, "title": {"text": title, "standoff": 8}, "automargin": True, "fixedrange": True, **more}


def light(values: Array) -> list[float]:
    """Five digits are plenty for a chart, and a third of the bytes."""
    return [float(f"{value:.5g}") for value in values.tolist()]
