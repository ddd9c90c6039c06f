"""Grafana's dashboard as Prometheus sees it: every expression that it asks, and the asking."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DASHBOARD = json.loads((ROOT / "grafana/dashboards/loadproof.json").read_text())
PANELS = DASHBOARD["panels"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
ANNOTATIONS = DASHBOARD["annotations"]["list"]
VARIABLES = DASHBOARD["templating"]["list"]
# What Grafana puts in: four scrapes, and all models as a regular expression.
GRAFANA = {"$__rate_interval": "4s", "$model": ".*"}

Result = list[dict[str, Any]]


def asked(expression: str) -> str:
    for variable, value in GRAFANA.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def expressions() -> dict[str, str]:
    """Everything that Grafana would ask, by what it is for."""
    found = {f"{title} {target['refId']}": asked(target["expr"]) for title, target in TARGETS}
    found |= {f"annotation {one['name']}": asked(one["expr"]) for one in ANNOTATIONS}
    for variable in VARIABLES:
        name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        found[f"variable {variable['name']}"] = f"count by ({label}) ({name})"
    return found


def ask(address: str, expression: str) -> Result:
    """The answer of the Prometheus at http://host:port to one expression."""
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{address}/api/v1/query?{query}", timeout=30) as answer:
        result: Result = json.load(answer)["data"]["result"]
    return result


def answers(address: str, over: Callable[[], bool]) -> dict[str, Result]:
    """The first answer with data to each expression of the dashboard, asked over and over until the run is `over`."""
    found: dict[str, Result] = {}
    left = expressions()
    while left and not over():
        for name, expression in list(left.items()):
            result = ask(address, expression)
            if any(math.isfinite(float(series["value"][1])) for series in result):
                found[name] = result
                del left[name]
    return found
