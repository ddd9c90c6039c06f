"""Where the controller is reached while a run goes on: by workers, browsers and Prometheus."""

from __future__ import annotations

from dataclasses import dataclass

from loadproof.launch.ports import require_free
from loadproof.launch.prometheus import Prometheus


@dataclass(frozen=True)
class Endpoints:
    """`host` and `port` (0: a free one) are for workers, `web_port` for people with a browser.

    `metrics_port` of `host` has the clients' live metrics; `prometheus` scrapes the metrics of each run. `last`: no
    other run follows, and workers from elsewhere may leave.
    """

    host: str = "127.0.0.1"
    port: int = 0
    web_port: int | None = None
    metrics_port: int | None = None
    prometheus: Prometheus | None = None
    last: bool = True

    @property
    def metrics_url(self) -> str | None:
        """The page of the clients' live metrics."""
        return f"http://{self.host}:{self.metrics_port}/metrics" if self.metrics_port else None

    def require_free(self) -> None:
        """LoadproofError that names the option whose port is taken or whose address is not this machine's."""
        if self.web_port is not None:
            require_free(self.web_port, f"--web {self.web_port}")
        if self.port:
            require_free(self.port, f"--listen {self.host}:{self.port}", self.host)
        if self.metrics_port:
            require_free(self.metrics_port, f"--metrics {self.metrics_port}", self.host)
