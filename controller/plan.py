"""The plan: a TOML file, checked whole, resolved into the runs of a campaign."""

from __future__ import annotations

import difflib
import itertools
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from clients.spec import Load, Measure, Section, too_many_requests
from controller.errors import PlanError

Table = dict[str, Any]
RUNS_MAX = 10_000
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):(\d{1,5})", re.ASCII)


class Server(Section):
    """The server under test, and how it is started."""

    model: str = Field(min_length=1, description="a model of the repository, or its served name on an external server")
    hint: Literal["latency", "throughput"] | None = None
    streams: int | None = Field(None, ge=1, le=1024)
    threads: int | None = Field(None, ge=1, le=4096)
    nireq: int | None = Field(None, ge=1, le=65_536, description="infer requests; default: the device's optimum")
    precision: Literal["f32", "bf16", "f16"] | None = None
    device: str = Field("CPU", min_length=1)
    launch: Literal["process", "external"] = "process"
    address: str | None = Field(None, description="external: gRPC host:port")
    rest_address: str | None = Field(None, description="external: REST host:port")
    metrics: str | None = Field(None, description='external: URL of /metrics, or "none"')

    @field_validator("address", "rest_address")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        found = _ADDRESS.fullmatch(value or "h:1")
        if not found or not 1 <= int(found.group(2)) <= 65_535:
            raise ValueError('allowed: host:port, as in "192.0.2.7:9000" or "[2001:db8::7]:9000"')
        return value

    @field_validator("metrics")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        if value is not None and value != "none" and not value.startswith(("http://", "https://")):
            raise ValueError('allowed: "http://host:port/metrics" or "none"')
        return value

    @model_validator(mode="after")
    def _keys_go_together(self) -> Server:
        if self.hint and self.streams:
            raise ValueError("hint and streams exclude each other: keep one of server.hint, server.streams")
        external_keys = [key for key in ("address", "rest_address", "metrics") if getattr(self, key) is not None]
        if self.launch == "external" and not (self.address or self.rest_address):
            raise ValueError('launch = "external" needs server.address (gRPC) or server.rest_address (REST)')
        if self.launch != "external" and external_keys:
            raise ValueError(f'server.{external_keys[0]} is for launch = "external" only')
        return self

    def plugin_config(self) -> dict[str, str]:
        """The OpenVINO properties that OVMS's `--plugin_config` takes."""
        properties = {
            "PERFORMANCE_HINT": self.hint.upper() if self.hint else None,
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        return {key: str(value) for key, value in properties.items() if value is not None}


class Slo(Section):
    """Limits that every run has to keep; one that is broken fails the campaign."""

    p50_ms: float | None = Field(None, gt=0)
    p90_ms: float | None = Field(None, gt=0)
    p95_ms: float | None = Field(None, gt=0)
    p99_ms: float | None = Field(None, gt=0)
    p99_9_ms: float | None = Field(None, gt=0)
    mean_ms: float | None = Field(None, gt=0)
    max_ms: float | None = Field(None, gt=0)
    error_rate: float | None = Field(None, ge=0, le=1, description="at most")
    throughput_rps: float | None = Field(None, gt=0, description="at least")


class Run(Section):
    """One measurement of the campaign: a point of the sweep, and which repeat of it this is."""

    name: str
    repeat: int
    server: Server
    load: Load
    measure: Measure
    slo: Slo = Slo()

    @model_validator(mode="after")
    def _protocol_has_an_address(self) -> Run:
        server, protocol = self.server, self.load.protocol
        if server.launch == "external" and not (server.address if protocol == "grpc" else server.rest_address):
            key = "address" if protocol == "grpc" else "rest_address"
            raise ValueError(f'load.protocol = "{protocol}" needs server.{key} of the external server')
        return self

    @model_validator(mode="after")
    def _arrivals_can_be_planned(self) -> Run:
        if message := too_many_requests(self.load, self.measure):
            raise ValueError(message)
        if self.load.trace and not Path(self.load.trace).is_file():
            raise ValueError(f"load.trace: {self.load.trace} is no file; paths are relative to the working directory")
        return self

    def spec(self) -> Table:
        """The resolved sections, as they go into run.json and summary.json."""
        return self.model_dump(mode="json", exclude={"name", "repeat"}, exclude_none=True)


class Plan(Section):
    """The file as written; `runs()` resolves it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    server: Server
    load: Load = Load()
    measure: Measure = Measure()
    slo: Slo = Slo()
    sweep: dict[str, list[Any]] = Field(default_factory=dict, description="every combination of values is a run")


def read(path: Path, settings: Sequence[str] = ()) -> tuple[Plan, list[Run]]:
    """The plan at `path` with `section.key=value` settings laid over it, and its runs; PlanError has every mistake."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(
            str(path), [f"cannot be read: {error.strerror}; give a plan's path, as in plans/quick.toml"]
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(str(path), [f"is not TOML: {error}"]) from None
    mistakes = [mistake for setting in settings if (mistake := _set(raw, setting))]
    return resolve(raw, str(path), mistakes)


def resolve(raw: Table, where: str, mistakes: Sequence[str] = ()) -> tuple[Plan, list[Run]]:
    """Check the raw tables and every combination of the sweep; raises PlanError with all mistakes, each named once."""
    found = list(mistakes)
    plan, runs = None, []
    try:
        plan = Plan.model_validate(raw)
    except ValidationError as error:
        found += _explain(error)
    sweep = raw.get("sweep", {})
    sweep_is_sound = isinstance(sweep, dict) and all(isinstance(values, list) for values in sweep.values())
    if sweep_is_sound:
        found += [f"sweep.{key}: found []; allowed: at least one value" for key, values in sweep.items() if not values]
        wanted = math.prod(len(values) for values in sweep.values()) * (plan.measure.repeats if plan else 1)
        if wanted > RUNS_MAX:
            found.append(f"sweep: found {wanted:,} runs, repeats included; allowed: at most {RUNS_MAX:,}")
        for point in _points(sweep) if wanted <= RUNS_MAX else ():
            try:
                runs.append(_run_at(raw, point))
            except ValidationError as error:
                found += _explain(error)
    found = list(dict.fromkeys(found))
    if found or plan is None:
        raise PlanError(where, found)
    return plan, list(_repeated(runs, plan.measure.repeats, plan.name))


def _repeated(runs: list[Run], repeats: int, plan_name: str) -> Iterator[Run]:
    """Repeats are interleaved, so that a drift of the machine does not fall on one point of the sweep."""
    for repeat in range(1, repeats + 1):
        for run in runs:
            name = run.name or plan_name
            yield run.model_copy(update={"name": name if repeats == 1 else f"{name} #{repeat}", "repeat": repeat})


def _points(sweep: Table) -> Iterator[Table]:
    for values in itertools.product(*sweep.values()):
        yield dict(zip(sweep, values, strict=True))


def _run_at(raw: Table, point: Table) -> Run:
    tables = {key: dict(raw[key]) for key in ("server", "load", "measure", "slo") if isinstance(raw.get(key), dict)}
    for key, value in point.items():
        _lay_over(tables, key, value)
    name = ", ".join(f"{key.partition('.')[2]}={value}" for key, value in point.items())
    run = Run.model_validate({"server": {}, "load": {}, "measure": {}, **tables, "name": name, "repeat": 1})
    workers = min(run.load.processes, run.load.clients)  # a process without a client would have nothing to do
    return run.model_copy(update={"load": run.load.model_copy(update={"processes": workers})})


def _lay_over(tables: Table, dotted: str, value: Any) -> None:
    section, _, key = dotted.partition(".")
    table = tables.setdefault(section, {})
    if section == "server" and key in ("streams", "threads"):
        table.pop("hint", None)
    if section == "server" and key == "hint":
        table.pop("streams", None)
    table[key] = value


def _set(raw: Table, setting: str) -> str | None:
    """Lay one `section.key=value` (a TOML value or a bare word) over the raw tables; returns the mistake, if any."""
    dotted, equals, text = setting.partition("=")
    section, dot, key = dotted.strip().partition(".")
    if not (equals and dot and key) or section not in Plan.model_fields or not isinstance(raw.get(section, {}), dict):
        sections = ", ".join(name for name in Plan.model_fields if name != "name")
        return f"--set {setting}: allowed: section.key=value, with one of the sections {sections}"
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    _lay_over(raw, f"{section}.{key}", value)
    if section != "sweep" and isinstance(raw.get("sweep"), dict):
        raw["sweep"].pop(f"{section}.{key}", None)  # what is set by hand is no longer swept
    return None


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
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
    near = difflib.get_close_matches(str(loc[-1]), keys, n=1)
    return (f"did you mean {near[0]}? " if near else "") + ", ".join(keys)
