"""Where the controller is reached while a run goes on: by workers, browsers and Prometheus."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadproof.errors import LoadproofError, PlanError
from loadproof.launch.child import TOKEN
from loadproof.launch.ports import join_host_port, require_free
from loadproof.launch.prometheus import Prometheus

TOKEN_LENGTH_MIN: Final = 16


def campaign_token() -> str:
    """A secret that nobody else knows; or the user's own, for workers that start before the controller."""
    given = os.environ.get(TOKEN, "").strip()
    if given and (len(given) < TOKEN_LENGTH_MIN or not given.isascii() or not given.isprintable()):
        raise PlanError("the environment", [f"{TOKEN}: allowed: {TOKEN_LENGTH_MIN} printable characters or more"])
    return given or secrets.token_hex(32)


@dataclass(frozen=True)
class Endpoints:
    """`host` and `port` (0: a free one) are for workers, `web_port` for people with a browser.

    `metrics_port` of `host` has the clients' live metrics; `prometheus` scrapes the metrics of each run. `last`: no
    other run follows, and workers from elsewhere may leave. By `token` master and workers know each other; it is
    written to `token_file` as well, where there is one, for the workers of a stack.
    """

    host: str = "127.0.0.1"
    port: int = 0
    web_port: int | None = None
    metrics_port: int | None = None
    prometheus: Prometheus | None = None
    last: bool = True
    token: str = field(default_factory=campaign_token, repr=False)
    token_file: Path | None = None

    @property
    def invitation(self) -> str:
        """The command that joins a worker, for people; a token of the user's own they know, and it is not shown."""
        token = f"${TOKEN}" if os.environ.get(TOKEN, "").strip() == self.token else self.token
        return f"{TOKEN}={token} loadproof worker --master {join_host_port(self.host, self.port)}"

    def write_token(self) -> None:
        """Into `token_file`, for this user and, where we are in it, the group of its directory: as a whole, at once.

        Raises LoadproofError where it cannot be written.
        """
        if (path := self.token_file) is None:
            return
        new = path.with_name(f"{path.name}.new")
        try:
            new.unlink(missing_ok=True)
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(file, "w") as opened:
                if (group := path.parent.stat().st_gid) in os.getgroups() and group != os.getegid():
                    os.fchown(file, -1, group)
                    os.fchmod(file, 0o640)
                opened.write(f"{self.token}\n")
            new.replace(path)
        except OSError as error:
            raise LoadproofError(
                f"token_file={path}: the campaign's token cannot be written: {error.strerror}"
            ) from None

    @property
    def metrics_url(self) -> str | None:
        """The page of the clients' live metrics."""
        return f"http://{join_host_port(self.host, self.metrics_port)}/metrics" if self.metrics_port else None

    def require_free(self) -> None:
        """LoadproofError that names the option whose port is taken or whose address is not this machine's."""
        if self.web_port is not None:
            require_free(self.web_port, f"--web {self.web_port}")
        if self.port:
            require_free(self.port, f"--listen {join_host_port(self.host, self.port)}", self.host)
        if self.metrics_port:
            require_free(self.metrics_port, f"--metrics {self.metrics_port}", self.host)
