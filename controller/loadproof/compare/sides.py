"""The sides of a comparison: their runs, which of them are alike, and what differs around them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from loadproof import analyse, rundir
from loadproof.errors import UsageError
from loadproof.plan import Server
from loadproof_clients.spec import Load, Measure

# Facts that make figures of the same server differ: where they do, the comparison is refused.
ESSENTIAL: Final = {
    "cpu_model",
    "cores",
    "threads",
    "usable_threads",
    "smt",
    "governor",
    "turbo",
    "virtualisation",
    "cgroup_cpus",
    "model sha256",
}
# Of analyse.checks.table, and fewer than search.DISTURBANCES: what neither the load nor the server has a part in.
BY_OTHERS: Final = frozenset({"other_load", "cpu_stolen"})
# What a run is called, is to keep and where its server listens: not what is measured.
_NOT_MEASURED: Final = {"measure.repeats", "server.address", "server.rest_address", "server.metrics"}
_SECTIONS: Final[Mapping[str, type[BaseModel]]] = {"server": Server, "load": Load, "measure": Measure}


class Measured(NamedTuple):
    """One run: its directory, its RUN of summary.json, its resolved spec as `section.key` -> value."""

    path: Path
    result: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def is_valid(self) -> bool:
        """Whether its figures can be trusted."""
        return bool(self.result["verdict"] != "INVALID")


@dataclass(frozen=True)
class Side:
    """What was given as one side: a campaign's directory, or a directory of campaigns, whose runs count together."""

    name: str
    created: tuple[str, str]  # of the first campaign and the last
    runs: Sequence[Measured]
    facts: Mapping[str, str]  # of the machine, the software and the model; several values are joined


class Alike(NamedTuple):
    """Runs of both sides with one spec; INVALID and disturbed ones are among them."""

    name: str
    before: Sequence[Measured]
    after: Sequence[Measured]


class Difference(NamedTuple):
    """A fact that is not the same on both sides; where it is essential they cannot be compared."""

    name: str
    before: str
    after: str
    essential: bool


def is_disturbed(result: Mapping[str, Any]) -> bool:
    """Of a run by its RUN of summary.json: whether others had more of the machine than a figure bears."""
    return any(reason["code"] in BY_OTHERS for reason in result["reasons"])


def campaigns(directory: Path) -> list[Path]:
    """`directory` where it is a campaign's, else the campaigns in it; RunDirectoryError where there are none."""
    if (directory / "campaign.json").exists() or not directory.is_dir():
        rundir.read_campaign(directory)
        return [directory]
    found = sorted(path.parent for path in directory.glob("*/campaign.json"))
    if not found:
        raise rundir.RunDirectoryError(
            f"{directory}: no campaign.json in it or one level below; give what `loadproof run` wrote, or its parent"
        )
    return found


def summarised(campaign: Path) -> dict[str, Any]:
    """Its summary.json; where there is none it is made first."""
    return rundir.read_summary(campaign) or analyse.campaign(campaign)


def read(directory: Path) -> Side:
    """The side that `directory` holds; RunDirectoryError where it holds none, or a broken one."""
    summaries = {path: summarised(path) for path in campaigns(directory)}
    runs = [
        Measured(path / one["directory"], one, resolved(one["spec"]))
        for path, summary in summaries.items()
        for one in summary["runs"]
    ]
    created = sorted(str(summary["campaign"].get("created", "")) for summary in summaries.values())
    seen: dict[str, dict[str, None]] = {}
    for name, value in _facts([summary["campaign"] for summary in summaries.values()], runs):
        seen.setdefault(name, {})[value] = None
    facts = {name: " | ".join(values) for name, values in seen.items()}
    return Side(str(directory), (created[0], created[-1]), runs, facts)


def resolved(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A run's spec as `section.key` -> value; keys that are younger than the run get the default that they have now."""
    flat: dict[str, Any] = {}
    for section, model in _SECTIONS.items():
        given = spec.get(section, {})
        defaults = {name: field.get_default(call_default_factory=True) for name, field in model.model_fields.items()}
        flat |= {f"{section}.{key}": value for key, value in {**defaults, **given}.items()}
    return {key: value for key, value in flat.items() if key not in _NOT_MEASURED}


def match(before: Side, after: Side, across: Sequence[str] = ()) -> list[Alike]:
    """The runs that both sides have, by their specs but for the keys of `across` (`section` or `section.key`).

    Raises UsageError where there are none (with what differs), and where a side's own runs differ in such a key.
    """
    ours, theirs = _groups(before, across), _groups(after, across)
    alike = [Alike(_name(ours[key], theirs[key]), ours[key], theirs[key]) for key in ours if key in theirs]
    if not alike:
        lines = [f"  {row.name}: {row.before} | {row.after}" for row in _spec_differences(before, after, across)]
        keys = " ".join(f"--across {line.split(':')[0].strip()}" for line in lines)
        cure = f"; {keys} compares them all the same" if keys else "; the one or the other has no runs"
        raise UsageError(f"no run of {before.name} has its like in {after.name}{cure}", "\n".join(lines))
    return alike


def unmatched(side: Side, alike: Sequence[Sequence[Measured]]) -> list[str]:
    """The names of the side's runs that are in none of these groups."""
    used = {run.path for group in alike for run in group}
    return list(dict.fromkeys(plain_name(run) for run in side.runs if run.path not in used))


def differences(before: Side, after: Side) -> list[Difference]:
    """What is not the same, the essential first; what one of them did not record is told where it is essential."""
    rows = []
    for name in [*before.facts, *(name for name in after.facts if name not in before.facts)]:
        values = before.facts.get(name), after.facts.get(name)
        essential = name in ESSENTIAL
        if values[0] != values[1] and (essential or None not in values):
            rows.append(Difference(name, values[0] or "—", values[1] or "—", essential and None not in values))
    return sorted(rows, key=lambda row: not row.essential)


def plain_name(run: Measured) -> str:
    """The run's name without the number of the repeat."""
    return re.sub(r" #\d+$", "", run.result["name"])


def by_spec(side: Side, across: Sequence[str] = ()) -> dict[str, list[Measured]]:
    """The side's runs by their specs but for the keys of `across`."""
    groups: dict[str, list[Measured]] = {}
    for run in side.runs:
        wanted = {key: value for key, value in run.spec.items() if not _is_among(key, across)}
        groups.setdefault(json.dumps(wanted, sort_keys=True), []).append(run)
    return groups


def _facts(heads: Sequence[Mapping[str, Any]], runs: Sequence[Measured]) -> Iterator[tuple[str, str]]:
    for head in heads:
        yield "loadproof", str(head.get("loadproof"))
        yield from _flat(head.get("environment", {}))
    for run in runs:
        if model := run.result.get("model"):
            yield "model sha256", f"{model['name']} {model['sha256'][:12]}"
        if about := run.result.get("served_by"):
            yield "server", f"{about['name']} {about['version']}"
        if container := run.result.get("server_container"):
            yield "server image", f"{container['image']} {container['image_id']}"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, "" if key == "packages" else f"{prefix}{key} ")
        elif value is not None:
            yield f"{prefix}{key}", str(value)


def _groups(side: Side, across: Sequence[str]) -> dict[str, list[Measured]]:
    groups = by_spec(side, across)
    for group in groups.values():
        for key in group[0].spec:
            if _is_among(key, across) and len({json.dumps(run.spec.get(key)) for run in group}) > 1:
                raise UsageError(
                    f"--across {key}: {side.name} has runs of its own that differ in it, and they are no repeats of"
                    " each other; give sides with one value each"
                )
    return groups


def _spec_differences(before: Side, after: Side, across: Sequence[str]) -> list[Difference]:
    rows = []
    for key in dict.fromkeys(key for side in (before, after) for run in side.runs for key in run.spec):
        seen = [dict.fromkeys(_shown(run.spec.get(key)) for run in side.runs) for side in (before, after)]
        if set(seen[0]) != set(seen[1]) and not _is_among(key, across):
            rows.append(Difference(key, ", ".join(seen[0]), ", ".join(seen[1]), essential=True))
    return rows


def _is_among(key: str, across: Sequence[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in across)


def _shown(value: Any) -> str:
    return "—" if value is None else str(value)


def _name(before: Sequence[Measured], after: Sequence[Measured]) -> str:
    names = dict.fromkeys(plain_name(group[0]) for group in (before, after))
    return " / ".join(names)
