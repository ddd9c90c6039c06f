"""The plan as written, and a run of it: their sections, and what the sections ask of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from loadproof.plan.server import Server
from loadproof.sections import Cost, Power, Search, Slo, Sweep, SweetSpot, Table, Tune
from loadproof_clients.spec import Load, Measure, Section, too_many_requests


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
            lay_over(tables, key, int(value) if key == "load.clients" else value)
        if batch not in (self.load.batch, "none"):  # the first dimension of every input
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


def lay_over(tables: Table, dotted: str, value: Any) -> None:
    """Set `section.key`; of keys that exclude each other the one that was there goes."""
    section, _, key = dotted.partition(".")
    table = tables.setdefault(section, {})
    if section == "server" and key in ("streams", "threads"):
        table.pop("hint", None)
    if section == "server" and key == "hint":
        table.pop("streams", None)
    table[key] = value
