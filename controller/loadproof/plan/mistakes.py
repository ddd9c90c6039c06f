"""Says in the plan's terms what pydantic found wrong, a line for each mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from loadproof.plan.model import Plan
from loadproof.plan.toml import short
from loadproof_clients.spec import Section


def explain(error: ValidationError) -> Iterator[str]:
    """Every mistake of a plan, with its key, what was found and what is allowed."""
    for item in error.errors(include_url=False):
        path = short(".".join(str(part) for part in item["loc"]))
        kind, found = item["type"], item["input"]
        if kind == "extra_forbidden":
            yield f"{path}: unknown key; allowed: {_allowed_keys(item['loc'])}"
        elif kind == "missing":
            yield f"{path}: missing; it has to be given"
        elif isinstance(found, dict | Section):  # a rule about several keys: the message names them
            yield f"{path + ': ' if path else ''}{_message(item)}"
        else:
            yield f"{path}: found {_shown(found)}; {_message(item)}"


def _message(item: Any) -> str:
    text: str = item["msg"].removeprefix("Value error, ")
    return text.replace("Input should be ", "allowed: ").replace("unable to parse string as", "not")


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _allowed_keys(loc: tuple[int | str, ...]) -> str:
    model: Any = Plan
    for part in loc[:-1]:
        model = Plan.model_fields[str(part)].annotation if model is Plan and str(part) in Plan.model_fields else model
    keys = [key for key in model.model_fields if model is Plan or key != "name"]
    near = difflib.get_close_matches(short(str(loc[-1])), keys, n=1)
    return (f"did you mean {near[0]}? " if near else "") + ", ".join(keys)
