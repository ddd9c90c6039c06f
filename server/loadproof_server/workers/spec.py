"""What a supervisor gives a worker on its command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker's number, and the file descriptors that it inherits: of each protocol one for each address."""

    number: int  # from 0
    workers: int
    address: str  # of the workers' sockets, without the worker's number
    supervisor: int  # its process
    control: int
    rest: list[int]
    grpc: list[int]

    @classmethod
    def from_argument(cls, argument: str) -> WorkerSpec:
        return cls(**json.loads(argument))

    def to_argument(self) -> str:
        return json.dumps(asdict(self))
