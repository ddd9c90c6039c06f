"""The plan: a TOML file, checked whole, resolved into the runs of a campaign."""

from __future__ import annotations

import difflib
import random
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from loadproof.errors import PlanError
from loadproof.sections import RUNS_MAX, SWEPT, Cost, Power, Search, Slo, Sweep, SweetSpot, Table, Tune
from loadproof_clients.spec import Load, Measure, Section, too_many_requests

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):(\d{1,5})", re.ASCII)
_ENGINE = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]-][^\s/:@\[\]]*):\d{1,5}|ssh://[^\s/-]\S*", re.ASCII)
_CPUS = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", re.ASCII)
_FOR_LAUNCH = {
    "metrics": "external",
    **dict.fromkeys(("image", "engine", "cpus", "cpu_limit", "memory_mb"), "docker"),
}


class Server(Section):
    """The server under test, and how it is started."""

    model: str = Field(min_length=1, description="a model of the repository, or its served name on an external server")
    hint: Literal["latency", "throughput"] | None = None
    streams: int | None = Field(None, ge=1, le=1024)
    threads: int | None = Field(None, ge=1, le=4096)
    nireq: int | None = Field(None, ge=1, le=65_536, description="infer requests; default: the device's optimum")
    precision: Literal["f32", "bf16", "f16"] | None = None
    device: str = Field("CPU", min_length=1)
    ceiling: bool = Field(False, description="run OpenVINO's benchmark_app with the same settings before each run")
    launch: Literal["process", "docker", "external"] = "process"
    address: str | None = Field(None, description="external, or docker with an engine: gRPC host:port for clients")
    rest_address: str | None = Field(None, description="external, or docker with an engine: REST host:port")
    metrics: str | None = Field(None, description='external: URL of /metrics, or "none"')
    image: str | None = Field(None, pattern=r"^[\w.:/@-]+$", description="docker: default loadproof-server")
    engine: str | None = Field(None, description='docker: "tcp://host:port" or "ssh://[user@]host"; default: the local')
    cpus: str | None = Field(None, description='docker: the CPUs that the container may use, as in "0-3,6"')
    cpu_limit: float | None = Field(None, ge=0.01, le=4096, description="docker: how much CPU time; 1 is one CPU's")
    memory_mb: int | None = Field(None, ge=16, le=2**26, description="docker: at most; there is no swap beyond it")

    @field_validator("address", "rest_address")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        found = _ADDRESS.fullmatch(value or "h:1")
        if not found or not 1 <= int(found.group(2)) <= 65_535:
            raise ValueError('allowed: host:port, as in "192.0.2.7:9000" or "[2001:db8::7]:9000"')
        return value

    @field_validator("engine")
    @classmethod
    def _is_an_engine(cls, value: str | None) -> str | None:
        if value is not None and not _ENGINE.fullmatch(value):
            raise ValueError('allowed: "tcp://host:port" or "ssh://[user@]host[:port][/path/of/docker.sock]"')
        return value

    @field_validator("cpus")
    @classmethod
    def _is_a_cpuset(cls, value: str | None) -> str | None:
        ranges = [part.split("-") for part in (value or "0").split(",")]
        if not _CPUS.fullmatch(value or "0") or any(int(low[0]) > int(low[-1]) for low in ranges):
            raise ValueError('allowed: numbers of CPUs and ranges of them, as in "0-3,6"')
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
        elsewhere = self.launch == "external" or self.engine is not None
        if elsewhere and not (self.address or self.rest_address):
            what = "server.engine" if self.engine else 'launch = "external"'
            raise ValueError(f"{what} needs server.address (gRPC) or server.rest_address (REST), as clients reach them")
        for key, launch in _FOR_LAUNCH.items():
            if getattr(self, key) is not None and self.launch != launch:
                raise ValueError(f'server.{key} is for launch = "{launch}" only')
        for key in ("address", "rest_address"):
            if getattr(self, key) is not None and not elsewhere:
                raise ValueError(f'server.{key} is for launch = "external", and for "docker" with server.engine')
        if self.ceiling and self.launch != "process":
            raise ValueError('server.ceiling needs launch = "process": benchmark_app runs where the server does')
        return self

    @property
    def is_on_loopback(self) -> bool:
        """Nobody but this machine reaches it."""
        return self.launch == "process" or (self.launch == "docker" and self.engine is None)

    def plugin_config(self) -> dict[str, str]:
        """The OpenVINO properties that OVMS's `--plugin_config` takes."""
        properties = {
            "PERFORMANCE_HINT": self.hint.upper() if self.hint else None,
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        return {key: str(value) for key, value in properties.items() if value is not None}


class Run(Section):
    """One measurement of the campaign: a point of the sweep, and which repeat of it this is."""

    name: str
    repeat: int
    point: int = 1  # its place in the sweep as listed
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

    def at(self, settings: Table, point: int = 1, repeat: int = 1) -> Run:
        """This run with other settings (`section.key` and value); ValidationError where one is not allowed."""
        tables = self.model_dump(exclude={"name", "repeat", "point"})
        batch = settings.get("load.batch", self.load.batch)
        for key, value in settings.items():
            _lay_over(tables, key, int(value) if key == "load.clients" else value)
        if batch != self.load.batch:  # the first dimension of every input
            shapes = {name: [batch, *shape[1:]] for name, shape in self.load.shapes.items() if shape}
            tables["load"]["shapes"] = shapes
        parts = [
            f"{key.partition('.')[2]}={f'{value:g}' if isinstance(value, float) else value}"
            for key, value in settings.items()
        ]
        name = ", ".join(parts) + (f" #{repeat}" if repeat > 1 else "")
        return Run.model_validate({**tables, "name": name, "repeat": repeat, "point": point})

    def spec(self) -> Table:
        """The resolved sections, as they go into run.json and summary.json."""
        return self.model_dump(mode="json", exclude={"name", "repeat", "point"}, exclude_none=True)


class Plan(Section):
    """The file as written; `runs()` resolves it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    server: Server
    load: Load = Load()
    measure: Measure = Measure()
    slo: Slo = Slo()
    sweep: Sweep = Sweep()
    search: Search | None = None
    tune: Tune | None = None
    sweet_spot: SweetSpot = SweetSpot()
    cost: Cost | None = None
    power: Power | None = None

    @model_validator(mode="after")
    def _rapl_is_of_this_machine(self) -> Plan:
        if self.power and self.power.source == "rapl" and not self.server.is_on_loopback:
            raise ValueError('power.source = "rapl" is of this machine, and the server is elsewhere: use "prometheus"')
        return self

    @model_validator(mode="after")
    def _a_search_knows_what_it_looks_for(self) -> Plan:
        if self.search is None:
            return self
        is_open = self.load.arrivals in ("constant", "poisson")
        if self.search.key == "load.rate_rps" and not is_open:
            raise ValueError('search.key = "load.rate_rps" needs load.arrivals = "constant" or "poisson"')
        if self.search.key == "load.clients" and self.load.arrivals != "closed":
            raise ValueError('search.key = "load.clients" needs load.arrivals = "closed"')
        if not self.slo.model_dump(exclude_none=True):
            raise ValueError("search needs a limit to keep: give one in [slo], as in p99_ms = 50")
        return self

    @model_validator(mode="after")
    def _tuning_knows_what_it_looks_for(self) -> Plan:
        if self.tune is None:
            return self
        limits = [getattr(limits, key) for limits in (self.slo, self.sweet_spot) for key in SweetSpot.model_fields]
        if not any(limits):
            raise ValueError("tune needs a latency limit to keep: give one in [slo], as in p95_ms = 50")
        if self.load.arrivals != "closed":
            raise ValueError('tune needs load.arrivals = "closed": an open loop\'s throughput is the rate it is given')
        if self.server.launch == "external" and any(key.startswith("server.") for key in self.tune.axes()):
            raise ValueError("tune: an external server is measured as it is; only tune.batch can be chosen for it")
        return self

    @model_validator(mode="after")
    def _one_thing_chooses_the_runs(self) -> Plan:
        choosing = [name for name in ("search", "tune") if getattr(self, name) is not None]
        if choosing and (self.sweep.listed_keys() or self.measure.repeats > 1):
            raise ValueError(f"{choosing[0]} goes without [sweep] and measure.repeats: it chooses its runs itself")
        if len(choosing) > 1:
            raise ValueError("search and tune: each chooses the runs itself; keep one of them")
        return self

    @property
    def chooses(self) -> bool:
        """Which runs there are follows from those before."""
        return self.search is not None or self.tune is not None

    def first_settings(self) -> Table:
        """Where a search or tuning begins; nothing otherwise."""
        if self.search:
            return {self.search.key: self.search.low}
        return self.tune.middle() if self.tune else {}


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
    raw = _started(raw)
    try:
        plan = Plan.model_validate(raw)
    except ValidationError as error:
        found += _explain(error)
    sweep = _sweep(raw)
    if sweep is not None:
        wanted = sweep.size() * (plan.measure.repeats if plan else 1)
        if wanted > RUNS_MAX:
            found.append(f"sweep: found {wanted:,} runs, repeats included; allowed: at most {RUNS_MAX:,}")
        for number, point in enumerate(sweep.listed() if wanted <= RUNS_MAX else (), start=1):
            try:
                runs.append(_run_at(raw, point).model_copy(update={"point": number}))
            except ValidationError as error:
                found += _explain(error)
    if plan and runs and (begin := plan.first_settings()):
        try:
            runs = [runs[0].at(begin)]
        except ValidationError as error:
            found += _explain(error)
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
