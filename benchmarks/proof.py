"""What proofs share: their options, their table, and the JSON that each leaves with its date and machine."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadproof import environment

Row = dict[str, Any]


def options(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Of `python -m benchmarks.NAME`; its help is the module's `doc`."""
    told = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc, formatter_class=told)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def machine() -> dict[str, Any]:
    """The environment and what else runs on it; to be asked before the proof adds its own."""
    return {**environment.record(), "load_at_start": os.getloadavg()[0]}


def write(out: Path | None, proof: str, its_machine: dict[str, Any], **content: Any) -> None:
    """The result as JSON, where a file was asked for."""
    if out:
        head = {"schema": 1, "proof": proof, "date": time.strftime("%Y-%m-%d"), "environment": its_machine}
        out.write_text(json.dumps(head | content, indent=1) + "\n")


def show(rows: list[Row]) -> None:
    """The rows as a table, with the columns of the first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(_text(row.get(name, "")) for name in rows[0]))
    console = Console(width=1000)
    console.width = console.measure(table).maximum  # whole, as wide as it is
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {count:,}" for key, count in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
