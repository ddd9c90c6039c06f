"""HAProxy before the server, started here or standing in a stack, and the collector that receives its request log."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loadproof import environment, shipped
from loadproof.collect import metrics_text
from loadproof.errors import LoadproofError
from loadproof.launch import http, questions
from loadproof.launch.child import Child
from loadproof.launch.component import Component, RemoteComponent
from loadproof.launch.ports import free_ports, join_host_port
from loadproof.launch.stack import Stack
from loadproof.launch.target import Target
from loadproof_clients.apis import Api

READY_TIMEOUT_S = 30
_CURE = "its log says why; a site's own haproxy.cfg is not used"
_STACK_CURE = "docker compose logs haproxy says why"


@dataclass(frozen=True)
class Balancer:
    """A running HAProxy: where clients reach each protocol, its exporter, and the file of its request log."""

    grpc: str
    rest: str
    metrics_url: str
    requests_log: Path
    component: Component

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
    with _collector(logs) as (requests_log, log_port):
        (grpc_port, rest_port), (stats_port,) = free_ports(2, host), free_ports(1)
        addresses = {
            "GRPC_BIND": join_host_port(host, grpc_port),
            "REST_BIND": join_host_port(host, rest_port),
            "STATS_BIND": f"127.0.0.1:{stats_port}",
            "LOG_TARGET": f"127.0.0.1:{log_port}",
            "SERVER_GRPC": target.grpc or "",
            "SERVER_REST": target.rest or "",
            **check(target),
            **inference_paths(target.api),
        }
        haproxy = [program, "-db", "-f", str(shipped.path("haproxy/haproxy.cfg"))]
        with Child("HAProxy", haproxy, logs / "balancer.log", env=addresses) as child:
            url = f"http://{addresses['STATS_BIND']}/metrics"
            child.wait_until(lambda: _sees_server(url), READY_TIMEOUT_S, _CURE)
            yield Balancer(addresses["GRPC_BIND"], addresses["REST_BIND"], url, requests_log, child)


@contextlib.contextmanager
def attach(stack: Stack, api: Api, logs: Path) -> Iterator[Balancer]:
    """The stack's HAProxy, which sends its log to us from now on, once it sees the server up."""
    component = RemoteComponent("HAProxy", stack.balancer_metrics)
    url = f"http://{stack.balancer_metrics}/metrics"
    with _collector(logs, stack.log) as (requests_log, _):
        component.wait_until(lambda: _sees_server(url), READY_TIMEOUT_S, _STACK_CURE)
        _take_over_log(stack, api, component, requests_log)
        yield Balancer(stack.balancer_grpc, stack.balancer_rest, url, requests_log, component)


def require_room(metrics_url: str, clients: int) -> None:
    """LoadproofError where HAProxy takes fewer connections than the clients', and one more for its own metrics."""
    for most in _values(f"{metrics_url}?scope=global", "haproxy_process_max_connections"):
        if clients >= most:
            raise LoadproofError(
                f"load.clients = {clients}, but HAProxy takes only {most:.0f} connections: raise the limit on open "
                f"files (ulimit -n {4 * clients}), lower load.clients, or --set load.via=direct"
            )


def check(target: Target) -> dict[str, str]:
    """HAProxy's variables for the check of the server; one that is not ours may not have the API's path for it."""
    path = next((carrier.ready_path for carrier in target.api.carriers.values() if carrier.ready_path), None)
    return {"HEALTH": "http", "HEALTH_PATH": path} if target.component and path else {"HEALTH": "tcp"}


def inference_paths(api: Api) -> dict[str, str]:
    """HAProxy's variables for the paths of the requests that it logs and counts; those of other protocols stay."""
    return {f"{protocol.upper()}_INFERENCE": carrier.inference_path for protocol, carrier in api.carriers.items()}


def _take_over_log(stack: Stack, api: Api, component: Component, requests_log: Path) -> None:
    """Wait until a request of ours shows in the log; drop what came before it, which belongs to an earlier run.

    It asks for a model that nobody serves, and comes before the counters are read.
    """
    probe = f"probe-{time.monotonic_ns()}"
    questions.send_probe(stack.balancer_rest, api, probe, probe)
    paths = " ".join(f"{name}={path}" for name, path in inference_paths(api).items())
    cure = f"does its LOG_TARGET lead to the controller, at {stack.log}, and was it started with {paths}?"
    component.wait_until(lambda: probe.encode() in requests_log.read_bytes(), READY_TIMEOUT_S, cure)
    os.truncate(requests_log, 0)  # the collector appends


@contextlib.contextmanager
def _collector(logs: Path, listen: str = "127.0.0.1:0") -> Iterator[tuple[Path, int]]:
    """A running log collector: its file, and the port where it listens."""
    requests_log = logs / "balancer-requests.log"
    host, _, port = listen.rpartition(":")
    command = [sys.executable, "-m", "loadproof.collect.log_collector", "--out", str(requests_log)]
    command += ["--host", host, "--port", port]
    with Child("the log collector", command, logs / "collector.log", pipe=True) as collector:
        line = collector.stdout.readline()
        if not line:
            collector.popen.wait()
            collector.require_alive("its log says why")
        yield requests_log, json.loads(line)["port"]


def _sees_server(metrics_url: str) -> bool:
    """True once every backend has its server up."""
    active = _values(f"{metrics_url}?scope=backend", "haproxy_backend_active_servers")
    return bool(active) and all(servers >= 1 for servers in active)


def _values(url: str, name: str) -> list[float]:
    try:
        return metrics_text.values(metrics_text.parse(http.get(url) or "", name), name)
    except ValueError:  # what answers there is no HAProxy
        return []
