"""What client, balancer and server saw of a run, and whether their counts agree."""

from __future__ import annotations

from pydantic import Field

from loadproof.analyse.schema.latency import BucketLatency, WitnessLatency
from loadproof.analyse.schema.part import Part


class Witness(Part):
    """Client or balancer."""

    requests: int | None = Field(description="inferences of the whole run, from the first reference to the end")
    latency_ms: WitnessLatency = Field(description="of the window's good answers, from the sent time")


class ServerWitness(Part):
    """The server, by its own counters."""

    requests: int = Field(description="inferences of the whole run, failed ones included")
    failed: int
    latency_ms: BucketLatency = Field(description="of the requests of the window")


class Witnesses(Part):
    """The three witnesses; null where one has nothing to say (a direct run has no balancer)."""

    client: Witness
    balancer: Witness | None
    server: ServerWitness | None

    def present(self) -> dict[str, Witness | ServerWitness]:
        """Those that are there, by name, from the client to the server."""
        everyone = {"client": self.client, "balancer": self.balancer, "server": self.server}
        return {name: witness for name, witness in everyone.items() if witness}


class Reconciliation(Part):
    """The terms of the equations between the witnesses' counts over the whole run, and what does not hold.

    A direct run has no balancer: what is counted by its log is null.
    """

    client_sent: int
    server_counted: int | None
    restarted: list[str] = Field(description="witnesses whose counters began again from zero")
    balancer_rows: int | None = Field(None, description="lines of the balancer's log")
    balancer_counted: int | None = Field(None, description="by the balancer's own counter")
    own_answers: int | None = Field(None, description="rows that never reached the server")
    cut: int | None = Field(None, description="rows that ended early on their way: the server may have counted them")
    lines_missing: int | None = Field(None, description="counted by the balancer and not in its log")
    closed_silently: int | None = Field(None, description="closed by the server without an answer")
    waiting: int | None = Field(None, description="given up by the client while the balancer still waited")
    closed_with_worker: int | None = Field(None, description="sessions that ended with a worker that died")
    closed_unknown: int | None = Field(None, description="sessions that ended, and nothing explains it")
    never_connected: int | None = Field(None, description="failed before the balancer had the request")
    lost_with_the_balancer: int | None = None
    unlogged: int | None = Field(None, description="records without a row that nothing explains")
    not_in_the_log: int | None = Field(None, description="failed records without a row")
    lost_with_worker: int | None = Field(None, description="rows of a worker that did not deliver all of its records")
    unaccounted: int | None = Field(None, description="rows without a record that nothing explains")
    differences: list[str] = Field(description="every equation that does not hold, in words")


class Interference(Part):
    """What the balancer did with requests but pass them on, over the whole run."""

    retried: int
    redispatched: int
    queued: int
    answered_itself: int = Field(alias="answered itself")
    full: int = Field(description="1 where it once took no more connections")


class Account(Part):
    """One line of the table that has every request by name."""

    name: str
    count: int
    meaning: str


class Breakdown(Part):
    """Where a request's mean time goes, in ms; null where a witness is missing."""

    lateness: float | None = Field(description="planned to sent; before the others, which add up to the client's mean")
    client_network: float | None
    balancer_network: float | None
    server_queue: float | None
    inference: float | None
    server_rest: float | None

    def __getitem__(self, part: str) -> float | None:
        """The part of that name; KeyError where there is none."""
        value: float | None = self._named(part)
        return value
