"""Reads a plan, and resolves it into runs: every combination of the sweep, repeats in blocks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from loadproof.errors import PlanError
from loadproof.plan import toml
from loadproof.plan.mistakes import explain
from loadproof.plan.model import Plan, Run, lay_over
from loadproof.sections import RUNS_MAX, SWEPT, Sweep, Table


def read(path: Path, settings: Sequence[str] = ()) -> tuple[Plan, list[Run]]:
    """The plan at `path` with `section.key=value` settings laid over it, and its runs; PlanError has every mistake."""
    try:
        raw = toml.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(
            str(path), [f"cannot be read: {error.strerror}; give a plan's path, as in plans/quick.toml"]
        ) from None
    except ValueError as error:
        raise PlanError(str(path), [f"is not TOML: {error}"]) from None
    mistakes = [mistake for setting in settings if (mistake := _set(raw, setting))]
    return resolve(raw, str(path), mistakes)


def resolve(raw: Table, where: str, mistakes: Sequence[str] = ()) -> tuple[Plan, list[Run]]:
    """Check the raw tables and every combination of the sweep; raises PlanError with all mistakes, each named once."""
    found = list(mistakes)
    plan, runs = None, []
    raw = _started(raw)
    try:
        plan = Plan.model_validate(raw)
    except ValidationError as error:
        found += explain(error)
    sweep = _sweep(raw)
    if sweep is not None:
        wanted = sweep.size() * (plan.measure.repeats if plan else 1)
        if wanted > RUNS_MAX:
            found.append(f"sweep: found {wanted:,} runs, repeats included; allowed: at most {RUNS_MAX:,}")
        for number, point in enumerate(sweep.listed() if wanted <= RUNS_MAX else (), start=1):
            try:
                runs.append(_run_at(raw, point).model_copy(update={"point": number}))
            except ValidationError as error:
                found += explain(error)
    if plan and runs and (begin := plan.first_settings()):
        try:
            runs = [runs[0].at(begin)]
        except ValidationError as error:
            found += explain(error)
    found = list(dict.fromkeys(found))
    if found or plan is None:
        raise PlanError(where, found)
    if plan.chooses:
        return plan, runs
    return plan, list(_ordered(runs, plan))


def _started(raw: Table) -> Table:
    """The tables with a search's first level in their place, which the plan then need not give."""
    search, load = raw.get("search"), raw.get("load", {})
    if not (isinstance(search, dict) and isinstance(load, dict) and search.get("key") == "load.rate_rps"):
        return raw
    return {**raw, "load": {"rate_rps": search.get("low", 1.0), **load}}


def _sweep(raw: Table) -> Sweep | None:
    """The section alone, so that its points are checked together with other mistakes; None where it is itself one."""
    try:
        return Sweep.model_validate(raw.get("sweep", {}))
    except ValidationError:
        return None


def _ordered(runs: list[Run], plan: Plan) -> Iterator[Run]:
    """Repeats are interleaved: each is a block of all points (a randomised complete block design: Fisher 1926)."""
    repeats, sweep = plan.measure.repeats, plan.sweep
    for repeat in range(1, repeats + 1):
        block = list(runs)
        if sweep.order == "random":
            random.Random(f"{sweep.seed} {repeat}").shuffle(block)
        for run in block:
            name = run.name or plan.name
            yield run.model_copy(update={"name": name if repeats == 1 else f"{name} #{repeat}", "repeat": repeat})


def _run_at(raw: Table, point: Table) -> Run:
    tables = {key: dict(raw[key]) for key in SWEPT if isinstance(raw.get(key), dict)}
    for key, value in point.items():
        lay_over(tables, key, value)
    name = ", ".join(f"{key.partition('.')[2]}={value}" for key, value in point.items())
    run = Run.model_validate({"server": {}, "load": {}, "measure": {}, **tables, "name": name, "repeat": 1})
    workers = min(run.load.processes, run.load.clients)  # a process without a client would have nothing to do
    return run.model_copy(update={"load": run.load.model_copy(update={"processes": workers})})


def _set(raw: Table, setting: str) -> str | None:
    """Lay one `section.key=value` (a TOML value or a bare word) over the raw tables; returns the mistake, if any."""
    dotted, equals, text = setting.partition("=")
    section, dot, key = dotted.strip().partition(".")
    if not (equals and dot and key) or section not in Plan.model_fields or not isinstance(raw.get(section, {}), dict):
        sections = ", ".join(name for name in Plan.model_fields if name != "name")
        return f"--set {toml.short(setting)}: allowed: section.key=value, with one of the sections {sections}"
    if toml.is_deep(dotted):
        return f"--set {toml.short(setting)}: {toml.TOO_DEEP}"
    try:
        value = toml.parse(f"value = {text}")["value"]
    except toml.TooDeep:
        return f"--set {toml.short(setting)}: {toml.TOO_DEEP}"
    except ValueError:
        value = text
    lay_over(raw, f"{section}.{key}", value)
    if section != "sweep" and isinstance(raw.get("sweep"), dict):
        raw["sweep"].pop(f"{section}.{key}", None)  # what is set by hand is no longer swept
    return None
