"""Runs a Prometheus during a campaign, to watch its runs: it ends with the campaign, and no figure comes from it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from loadproof import environment, shipped
from loadproof.errors import LoadproofError
from loadproof.launch import http
from loadproof.launch.child import Child
from loadproof.launch.ports import free_ports

READY_TIMEOUT_S = 60
SETTLE_TIMEOUT_S = 3
CURE = "apt-get install prometheus, or leave out --watch"
# Beyond what a campaign of days fills: some 600 series, a sample a second each.
_BOUNDS = ("--storage.tsdb.retention.time=7d", "--storage.tsdb.retention.size=1GB")
_JOBS = {"clients": "clients", "haproxy": "balancer", "server": "server"}  # of prometheus.yml; names of our witnesses


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus: `address` is http://host:port, `directory` has its configuration, targets and data."""

    address: str
    directory: Path

    @property
    def page(self) -> str:
        """Where a person looks first: the dashboard's graphs on Prometheus's own page."""
        return f"{self.address}/user/"

    @contextlib.contextmanager
    def follow(self, urls: Mapping[str, str | None]) -> Iterator[None]:
        """Scrapes a run's witnesses: the pages of "clients", "balancer" and "server", None where there is none.

        Prometheus looks for new ones every 5 s. At the end it gets to see the last second too.
        """
        self._aim(urls)
        try:
            yield
            self._wait_for_scrape()
        finally:
            self._aim({})

    def _aim(self, urls: Mapping[str, str | None]) -> None:
        """Writes the targets of each job; a reader sees the old file or the new one."""
        targets = self.directory / "targets"
        targets.mkdir(exist_ok=True)
        for job, witness in _JOBS.items():
            url = urls.get(witness)
            new = targets / f"{job}.new"
            new.write_text(json.dumps([_target(url)] if url else []))
            new.replace(targets / f"{job}.json")

    def _wait_for_scrape(self) -> None:
        """Until every target was scraped once more, or some seconds: a run does not wait for who watches it."""
        query = urllib.parse.urlencode({"query": f"min(timestamp(up)) > {time.time()}"})
        until_s = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < until_s:
            answer = http.get(f"{self.address}/api/v1/query?{query}")
            if answer is None or json.loads(answer)["data"]["result"]:
                return
            time.sleep(0.05)


@contextlib.contextmanager
def start() -> Iterator[Prometheus]:
    """Start it on loopback, in a directory of its own that goes with it; raises LoadproofError with the cure."""
    program = environment.prometheus_program()
    if program is None:
        raise LoadproofError(f"--watch: Prometheus is not installed; {CURE}")
    with tempfile.TemporaryDirectory(prefix="loadproof-prometheus-") as name:
        directory = Path(name)
        listen = f"127.0.0.1:{free_ports(1)[0]}"
        prometheus = Prometheus(f"http://{listen}", directory)
        prometheus._aim({})
        configuration = directory / "prometheus.yml"
        shutil.copyfile(shipped.path("prometheus/prometheus.yml"), configuration)
        (directory / "page").mkdir()
        (directory / "page" / "index.html").write_text(_page())
        command = [program, f"--config.file={configuration}", f"--storage.tsdb.path={directory / 'data'}", *_BOUNDS]
        command += [f"--web.listen-address={listen}", f"--web.user-assets={directory / 'page'}"]
        command += ["--web.cors.origin=^$", "--log.level=warn"]  # no other site's script may ask it
        with Child("Prometheus", command, directory / "prometheus.log") as child:
            ready = f"{prometheus.address}/-/ready"
            child.wait_until(lambda: http.get(ready) is not None, READY_TIMEOUT_S, CURE)
            yield prometheus


def _target(url: str) -> dict[str, object]:
    """A target of file_sd from the URL of its page."""
    parts = urllib.parse.urlsplit(url)
    return {"targets": [parts.netloc], "labels": {"__scheme__": parts.scheme, "__metrics_path__": parts.path}}


def _page() -> str:
    """Leads on to Prometheus's graph page with the first expression of every panel of Grafana's dashboard."""
    dashboard = json.loads(shipped.path("grafana/dashboards/loadproof.json").read_text())
    query: dict[str, str] = {}
    for number, panel in enumerate(panel for panel in dashboard["panels"] if panel["type"] == "timeseries"):
        expression = panel["targets"][0]["expr"].replace("$__rate_interval", "5s").replace("$model", ".*")
        query |= {f"g{number}.expr": expression, f"g{number}.tab": "0", f"g{number}.range_input": "2m"}
    url = f"/graph?{urllib.parse.urlencode(query)}"
    return f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(url)}"><title>Loadproof</title>\n'
