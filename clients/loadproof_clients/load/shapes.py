"""What master and workers may say to each other, Locust's own messages included: the shape of each one's data.

A message of another kind or shape is dropped before Locust or a handler sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from loadproof_clients.load import messages

Known = Mapping[str, TypeAdapter[Any]]
Text = Annotated[str, Field(max_length=255)]
Long = Annotated[str, Field(max_length=100_000)]
Count = Annotated[int, Field(ge=0, lt=2**48)]
Few = Annotated[int, Field(ge=0, lt=2**31)]
Time = Annotated[int, Field(ge=-(2**62), le=2**62)]
Amount = Annotated[float, Field(allow_inf_nan=False)]
Users = Annotated[dict[Text, Few], Field(max_length=16)]


class Shape(BaseModel):
    """A message's data: these keys and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(Shape):
    """What a message of ours carries that has no data."""


class Hello(Shape):
    """Another version of Loadproof may say more."""

    model_config = ConfigDict(extra="ignore", strict=True)
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    host: Text
    version: Text
    machine: Text
    clock: Text
    joined: bool


class Health(Shape):
    """A row of load.health."""

    worker: Few
    time_s: Amount
    cpu_percent: Amount
    rss_bytes: Count
    in_flight: Few
    connections: Few
    verify_us: Amount
    ship_us: Amount
    wait_percent: Amount
    late_ms: Amount
    lag_ms: Amount
    stood_ms: Amount
    gc_ms: Amount
    wall_ns: Time
    held: Amount


class Report(Shape):
    """messages.COUNTS, and how busy the worker is."""

    sent: Count
    unsent: Count
    ok: Count
    failed: Count
    wrong: Count
    in_flight: Few
    connections: Few
    health: Health | None


class Chunk(Shape):
    """Records."""

    number: Few
    data: bytes


class Done(Shape):
    """The end of a worker's records."""

    sent: Count
    unsent: Count
    records: Count
    early: bool


class Armed(Shape):
    """How many clients are connected."""

    clients: Few


class Pong(Shape):
    """A worker's clock."""

    number: Few
    now_ns: Time


class Failed(Shape):
    """Why a worker cannot go on."""

    message: Long


class Heartbeat(Shape):
    """Locust's."""

    state: Literal["ready", "spawning", "running", "cleanup", "stopping", "stopped", "missing"]
    current_cpu_usage: Amount
    current_memory_usage: Count


class Spawned(Shape):
    """Locust's."""

    user_classes_count: Users
    user_count: Few


class Stats(Spawned):
    """Locust's own statistics, for its web UI only; what is in them Locust looks at itself."""

    stats: list[dict[str, Any]]
    stats_total: dict[str, Any]
    errors: dict[str, dict[str, Any]]


class Logs(Shape):
    """Locust's."""

    worker_id: Text
    logs: list[Long]


class Exception_(Shape):
    """Locust's, of a user that raised."""

    msg: Long
    traceback: Long


class Refused(Shape):
    """fleet.Refusal."""

    message: Long
    again: bool


class Load(Shape):
    """What a worker gets of the run."""

    worker: Annotated[int, Field(ge=1, le=65535)]
    spec: str
    sizes: dict[Literal["payloads", "answers", "trace"], Count]
    watched: bool


class Part(Shape):
    """A slice of a parcel."""

    parcel: Literal["payloads", "answers", "trace"]
    data: Annotated[bytes, Field(max_length=messages.PART_BYTES_MAX)]


class Ping(Shape):
    """Asks for a worker's clock."""

    number: Few


class Start(Shape):
    """T0 on the worker's clock."""

    t0_ns: Time
    first_client: Few


class Taken(Shape):
    """The number of the chunk that the master expects next."""

    expected: Few


class Over(Shape):
    """Whether another run follows."""

    last: bool


class Ack(Shape):
    """Locust's."""

    index: Few


class Spawn(Shape):
    """Locust's."""

    timestamp: Amount
    user_classes_count: Users
    host: Text | None
    stop_timeout: Amount | None
    parsed_options: dict[str, Any]


class AllSpawned(Shape):
    """Locust's."""

    user_count: Few


def _known(**shapes: Any) -> Known:
    return {name: TypeAdapter(shape) for name, shape in shapes.items()}


FROM_WORKER: Final[Known] = {
    **_known(client_ready=Annotated[str, Field(min_length=1, max_length=64)], client_stopped=None, quit=None),
    **_known(heartbeat=Heartbeat, spawning=None, spawning_complete=Spawned, stats=Stats, logs=Logs),
    **_known(exception=Exception_),
    messages.HELLO: TypeAdapter(Hello),
    messages.PART_TAKEN: TypeAdapter(Nothing),
    messages.LOADED: TypeAdapter(Nothing),
    messages.ARMED: TypeAdapter(Armed),
    messages.PONG: TypeAdapter(Pong),
    messages.REPORT: TypeAdapter(Report),
    messages.CHUNK: TypeAdapter(Chunk),
    messages.DONE: TypeAdapter(Done),
    messages.FAILED: TypeAdapter(Failed),
}
FROM_MASTER: Final[Known] = {
    **_known(ack=Ack, spawn=Spawn, stop=None, quit=None, reconnect=None, heartbeat=None, spawning_complete=AllSpawned),
    messages.REFUSED: TypeAdapter(Refused),
    messages.LOAD: TypeAdapter(Load),
    messages.PART: TypeAdapter(Part),
    messages.PING: TypeAdapter(Ping),
    messages.START: TypeAdapter(Start),
    messages.CHUNK_TAKEN: TypeAdapter(Taken),
    messages.FINISH: TypeAdapter(None),
    messages.OVER: TypeAdapter(Over),
}


def checked(known: Known, kind: str, data: Any) -> Any:
    """The data as it is; ValueError says what is wrong with it, in a few words."""
    if (adapter := known.get(kind)) is None:
        raise ValueError("one of an unknown kind")
    try:
        adapter.validate_python(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:60]
        raise ValueError(f"{kind}: {where + ': ' if where else ''}{first['msg'][:100]}") from None
    return data
