"""The plan's section about the server under test."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from loadproof_clients.spec import Section

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
