"""The sides of a comparison: their runs, which of them have one spec, and what differs around them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from loadproof import analyse, rundir
from loadproof.analyse import RunSummary, Summary, checks
from loadproof.analyse.schema import Campaign
from loadproof.analyse.sweet_spot import plain_name
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
# Fewer than search.DISTURBANCES: what neither the load nor the server has a part in.
BY_OTHERS: Final = checks.disturbances("others")
# What a run is called, is to keep and where its server listens: not what is measured.
_NOT_MEASURED: Final = {"measure.repeats", "server.address", "server.rest_address", "server.metrics"}
_SECTIONS: Final[Mapping[str, type[BaseModel]]] = {"server": Server, "load": Load, "measure": Measure}


class Measured(NamedTuple):
    """One run: its directory, its RUN of summary.json, its resolved spec as `section.key` -> value."""

    path: Path
    summary: RunSummary
    spec: Mapping[str, Any]

    @property
    def is_valid(self) -> bool:
        """Whether its figures can be trusted."""
        return self.summary.verdict != "INVALID"


@dataclass(frozen=True)
class Side:
    """What was given as one side: a campaign's directory, or a directory of campaigns, whose runs count together."""

    name: str
    created: tuple[str, str]  # of the first campaign and the last
    runs: Sequence[Measured]
    facts: Mapping[str, str]  # of the machine, the software and the model; several values are joined


class Match(NamedTuple):
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


def is_disturbed(run: RunSummary) -> bool:
    """Whether others had so much of the machine that the figures show it."""
    return any(reason.code in BY_OTHERS for reason in run.reasons)


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


def summarised(campaign: Path) -> Summary:
    """Its summary.json; where there is none it is made first."""
    return analyse.read(campaign) or analyse.campaign(campaign)


def read(directory: Path) -> Side:
    """The side that `directory` holds; RunDirectoryError where it holds none, or a broken one."""
    summaries = {path: summarised(path) for path in campaigns(directory)}
    runs = [
        Measured(path / one.directory, one, resolved(one.spec))
        for path, summary in summaries.items()
        for one in summary.runs
    ]
    created = sorted(summary.campaign.created for summary in summaries.values())
    seen: dict[str, dict[str, None]] = {}
    for name, value in _facts([summary.campaign for summary in summaries.values()], runs):
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


def match(before: Side, after: Side, across: Sequence[str] = ()) -> list[Match]:
    """The runs that both sides have, by their specs but for the keys of `across` (`section` or `section.key`).

    Raises UsageError where there are none (with what differs), and where a side's own runs differ in such a key.
    """
    ours, theirs = _groups(before, across), _groups(after, across)
    matches = [Match(_name(ours[key], theirs[key]), ours[key], theirs[key]) for key in ours if key in theirs]
    if not matches:
        lines = [f"  {row.name}: {row.before} | {row.after}" for row in _spec_differences(before, after, across)]
        keys = " ".join(f"--across {line.split(':')[0].strip()}" for line in lines)
        cure = f"; {keys} compares them all the same" if keys else "; the one or the other has no runs"
        raise UsageError(f"no run of {before.name} is in {after.name} as well{cure}", "\n".join(lines))
    return matches


def unmatched(side: Side, matched: Sequence[Sequence[Measured]]) -> list[str]:
    """The names of the side's runs that are in none of these groups."""
    used = {run.path for group in matched for run in group}
    return list(dict.fromkeys(plain_name(run.summary.name) for run in side.runs if run.path not in used))


def differences(before: Side, after: Side) -> list[Difference]:
    """What is not the same, the essential first; what one of them did not record is listed where it is essential."""
    rows = []
    for name in [*before.facts, *(name for name in after.facts if name not in before.facts)]:
        values = before.facts.get(name), after.facts.get(name)
        essential = name in ESSENTIAL
        if values[0] != values[1] and (essential or None not in values):
            rows.append(Difference(name, values[0] or "—", values[1] or "—", essential and None not in values))
    return sorted(rows, key=lambda row: not row.essential)


def by_spec(side: Side, across: Sequence[str] = ()) -> dict[str, list[Measured]]:
    """The side's runs by their specs but for the keys of `across`."""
    groups: dict[str, list[Measured]] = {}
    for run in side.runs:
        wanted = {key: value for key, value in run.spec.items() if not _is_among(key, across)}
        groups.setdefault(json.dumps(wanted, sort_keys=True), []).append(run)
    return groups


def _facts(heads: Sequence[Campaign], runs: Sequence[Measured]) -> Iterator[tuple[str, str]]:
    for head in heads:
        yield "loadproof", str(head.loadproof)
        yield from _flat(head.environment)
    for run in runs:
        if model := run.summary.model:
            yield "model sha256", f"{model['name']} {model['sha256'][:12]}"
        if about := run.summary.served_by:
            yield "server", f"{about['name']} {about['version']}"
        if container := run.summary.server_container:
            yield "server image", f"{container.image} {container.image_id}"


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
    names = dict.fromkeys(plain_name(group[0].summary.name) for group in (before, after))
    return " / ".join(names)
