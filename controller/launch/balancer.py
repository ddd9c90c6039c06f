"""HAProxy before the server, and the collector that receives its request log."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from controller import environment
from controller.errors import LoadproofError
from controller.launch import http
from controller.launch.child import Child, free_ports
from controller.launch.server import Target

READY_TIMEOUT_S = 30
_CURE = "its log says why; a site's own haproxy.cfg is not used"


@dataclass(frozen=True)
class Balancer:
    """A running HAProxy: where clients reach each protocol, its exporter, and the file of its request log."""

    grpc: str
    rest: str
    metrics_url: str
    requests_log: Path
    child: Child
    collector: Child

    def address(self, protocol: str) -> str:
        """host:port of the frontend for `grpc` or `rest`."""
        return self.grpc if protocol == "grpc" else self.rest


@contextlib.contextmanager
def start(target: Target, logs: Path, host: str = "127.0.0.1") -> Iterator[Balancer]:
    """Start the log collector and HAProxy before `target`, for clients that come to `host`; it sees the server up."""
    program = environment.haproxy_program()
    if program is None:
        raise LoadproofError("HAProxy is not installed; apt-get install haproxy, or --set load.via=direct")
    version = environment.haproxy_version()
    if environment.is_too_old(version):
        oldest = environment.HAPROXY_OLDEST
        raise LoadproofError(f"{program} is version {version}; {oldest} or newer is needed, or --set load.via=direct")
    requests_log = logs / "balancer-requests.log"
    command = [sys.executable, "-m", "controller.collect.log_collector", "--out", str(requests_log)]
    with Child("the log collector", command, logs / "collector.log", pipe=True) as collector:
        said = collector.stdout.readline()
        if not said:
            collector.popen.wait()
            collector.require_alive("its log says why")
        (grpc_port, rest_port), (stats_port,) = free_ports(2, host), free_ports(1)
        addresses = {
            "GRPC_BIND": f"{host}:{grpc_port}",
            "REST_BIND": f"{host}:{rest_port}",
            "STATS_BIND": f"127.0.0.1:{stats_port}",
            "LOG_TARGET": f"127.0.0.1:{json.loads(said)['port']}",
            "SERVER_GRPC": target.grpc or "",
            "SERVER_REST": target.rest or "",
            "HEALTH": "http" if target.child else "tcp",
        }
        configuration = resources.files("haproxy") / "haproxy.cfg"
        haproxy = [program, "-db", "-f", str(configuration)]
        with Child("HAProxy", haproxy, logs / "balancer.log", env=addresses) as child:
            url = f"http://{addresses['STATS_BIND']}/metrics"
            child.wait_until(lambda: _sees_server(url), READY_TIMEOUT_S, _CURE)
            yield Balancer(addresses["GRPC_BIND"], addresses["REST_BIND"], url, requests_log, child, collector)


def _sees_server(metrics_url: str) -> bool:
    """True once every backend has its server up."""
    text = http.get(f"{metrics_url}?scope=backend") or ""
    active = [line for line in text.splitlines() if line.startswith("haproxy_backend_active_servers{")]
    return bool(active) and all(float(line.rsplit(" ", 1)[1]) >= 1 for line in active)
