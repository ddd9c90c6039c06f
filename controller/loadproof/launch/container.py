"""The server under test in a container of its own, which the engine ends and removes whatever becomes of us.

The container lives on a lease. Its standard input is a connection to the controller, which writes a line there every
BEAT_S; when the connection closes, or no line comes for LEASE_S, the server is killed, and the engine removes the
container (as of `docker run --rm`). So it is with SIGKILL, a cut network and a power failure as well.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import docker
import pyarrow as pa

from loadproof.collect.container_usage import ContainerUsage
from loadproof.launch import engine, isolation
from loadproof.launch.component import Component, RemoteComponent
from loadproof.launch.server import flags
from loadproof.launch.target import Target
from loadproof.models import Model
from loadproof.plan import Server
from loadproof_clients.apis import Api

IMAGE: Final = "loadproof-server"
LABEL: Final = "loadproof.campaign"
BEAT_S: Final = 5
LEASE_S: Final = 30
STOP_TIMEOUT_S: Final = 5
GONE_TIMEOUT_S: Final = 20
NEVER_STARTED_S: Final = 60
KILLED: Final = 128 + signal.SIGKILL  # the exit code


def start(server: Server, model: Model, api: Api, log: Path, campaign: str) -> Target:
    """Start the server's image for the model, under its name, on the plan's engine.

    `Target.wait_ready` returns when it serves; `campaign` becomes the container's label. Raises LoadproofError with the
    cure: no engine, no image, a refused limit.
    """
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(engine.connect(server.engine, log))
        image = isolation.image(client, server, IMAGE)
        arguments = flags(server, model, isolation.model_path(model), isolation.GRPC_PORT, isolation.REST_PORT)
        arguments += ["--grpc_bind_address", "0.0.0.0", "--rest_bind_address", "0.0.0.0"]
        program = image.attrs["Config"]["Entrypoint"]
        try:
            _remove_never_started(client)
            handle = client.containers.create(
                image.id,
                arguments,
                entrypoint=["bash", "-c", lease(LEASE_S), "lease", *program],
                stdin_open=True,
                auto_remove=True,
                labels={LABEL: campaign},
                **isolation.options(server, model),
            )
            stack.callback(_remove, handle)
            container = Container(client, handle, [*program, *arguments], log, server.memory_mb)
            container.begin(model if server.engine else None)
            handle.reload()
            grpc, rest = (_address(server, handle, protocol) for protocol in ("grpc", "rest"))
            container.about = {"image": server.image or IMAGE, "image_id": image.id, **_about(client, server)}
        except engine.ERRORS as error:
            raise isolation.refusal(error, server) from None
        if server.engine:
            container.probe = RemoteComponent(container.name, grpc if server.address else rest)
        container.resources = stack.pop_all()
    return Target(model.name, api, grpc, rest, f"http://{rest}/metrics", container)


class Container(Component):
    """A container that was made and not yet started; four threads look after it until it is gone.

    `about` goes into the run's facts, `probe` says whether a server elsewhere is still reached, `resources` are what
    goes after the container.
    """

    name = "the server's container"

    def __init__(self, client: Any, handle: Any, command: list[str], log: Path, memory_mb: int | None = None) -> None:
        self.command, self.log = command, log
        self._memory_mb = memory_mb
        self.about: dict[str, Any] = {}
        self.probe: RemoteComponent | None = None
        self.resources = contextlib.ExitStack()
        self._client, self._handle = client, handle
        self._usage = ContainerUsage()
        self._code: int | None = None  # it ended
        self._how: str | None = None  # and that is known for good
        self._out_of_memory = False
        self._was_ready = self._stopping = False
        self._gone = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def begin(self, model: Model | None) -> None:
        """Start it; a `model` whose files are not there yet is copied into it before its server runs.

        It is attached to first: nothing that it says is missed, and it cannot outlive us.
        """
        events = self._client.events(decode=True, filters={"container": self._handle.id})
        ends = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._attached = self._handle.attach_socket(params=ends)
        self._lifeline: socket.socket = getattr(self._attached, "_sock", self._attached)
        self._lifeline.settimeout(None)
        self._follow("log", self._copy_log)
        self._follow("events", lambda: self._watch(events))
        self._handle.start()
        self._follow("usage", self._sample)
        self._follow("lease", self._beat)
        if model is not None:
            with isolation.archive(model) as files:
                self._handle.put_archive(isolation.MODELS, files)
        self._lifeline.sendall(b"go\n")

    def died(self) -> str | None:
        """How it ended, if it ended without having been stopped, or that it is cut off; None while it runs."""
        if self._stopping:
            return None
        return self._how or (self.probe.died() if self.probe and self._was_ready else None)

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, cure: str) -> None:
        super().wait_until(ready, timeout_s, cure)
        self._was_ready = True

    def stop(self) -> None:
        """End and remove it. An engine that does not answer any more does that itself when the lease is over."""
        self._stopping = True
        self._client.api.timeout = STOP_TIMEOUT_S
        try:
            with contextlib.suppress(docker.errors.APIError):  # it is gone already, or going
                self._handle.stop(timeout=STOP_TIMEOUT_S)
            _remove(self._handle)
            self._gone.wait(GONE_TIMEOUT_S)
        except engine.ERRORS:
            pass  # facts() report it
        finally:
            with contextlib.suppress(OSError):
                self._lifeline.shutdown(socket.SHUT_RDWR)
            self.resources.close()
            for thread in self._threads.values():
                thread.join(STOP_TIMEOUT_S if self._gone.is_set() else 0.1)  # those of a silent engine hang

    def facts(self) -> dict[str, Any]:
        return {"container": {**self.about, "out_of_memory": self._out_of_memory, "removed": self._gone.is_set()}}

    def samples(self, t0_monotonic_ns: int) -> pa.Table:
        return self._usage.table(t0_monotonic_ns)

    def _follow(self, what: str, work: Callable[[], None]) -> None:
        self._threads[what] = threading.Thread(target=work, name=f"container {what}", daemon=True)
        self._threads[what].start()

    def _watch(self, events: Iterator[dict[str, Any]]) -> None:
        """What the engine reports of it, until it is removed."""
        with contextlib.suppress(*engine.ERRORS):
            for event in events:
                match event.get("Action"):
                    case "oom":
                        self._out_of_memory = True
                    case "die":
                        self._code = int(event["Actor"]["Attributes"].get("exitCode", -1))
                        self._look_for_oom()
                        self._threads["log"].join(STOP_TIMEOUT_S)  # its last words explain
                    case "destroy":
                        self._settle()
                        self._gone.set()
                        return
                # the engine may say only after the end, and before the container goes, that memory was the cause
                if self._out_of_memory or self._code != KILLED:
                    self._settle()
        self._how = self._how or f"{self.name} is no longer to be seen: the connection to its engine broke"

    def _look_for_oom(self) -> None:
        """What the engine's own state says, while the container is still there."""
        with contextlib.suppress(*engine.ERRORS):
            self._handle.reload()
            self._out_of_memory |= bool(self._handle.attrs["State"].get("OOMKilled"))

    def _settle(self) -> None:
        if self._code is not None:
            self._how = self._ending(self._code)

    def _ending(self, code: int) -> str:
        if self._out_of_memory:
            limit = f"server.memory_mb = {self._memory_mb}" if self._memory_mb else "its machine's memory"
            return f"{self.name} was killed for memory: {limit} is its limit; raise it, or lower streams or batch"
        if code > 128 and (number := code - 128) in {one.value for one in signal.Signals}:
            return f"{self.name} was killed by {signal.Signals(number).name}"
        return f"{self.name} exited with code {code}"

    def _copy_log(self) -> None:
        assert self.log is not None
        with contextlib.suppress(OSError), self._lifeline.makefile("rb") as stream, self.log.open("ab") as sink:
            for piece in _frames(stream):
                sink.write(piece)
                sink.flush()

    def _sample(self) -> None:
        with contextlib.suppress(*engine.ERRORS):
            for stats in self._client.api.stats(self._handle.id, decode=True, stream=True):
                self._usage.take(stats, time.monotonic_ns())
                if self._gone.is_set():
                    return

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            while not self._gone.wait(BEAT_S):
                self._lifeline.sendall(b"\n")


def lease(seconds: int) -> str:
    """A script for Bash, which OVMS's image has too: runs its arguments as long as a line comes within each `seconds`.

    Before that it waits for the line "go": the model's files may still be on their way.
    """
    return f"""
        exec 3<&0 </dev/null
        until [ "$word" = go ]; do read -rt {seconds} -u 3 word || exit 1; done
        {{ while read -rt {seconds} -u 3; do :; done; kill -KILL $$; }} &
        exec "$@" 3<&-
    """


def _frames(stream: IO[bytes]) -> Iterator[bytes]:
    """What a container without a terminal writes, as the engine sends it: 8 bytes of header, the last 4 its length."""
    while len(header := stream.read(8)) == 8:
        yield stream.read(int.from_bytes(header[4:], "big"))


def _address(server: Server, handle: Any, protocol: str) -> str:
    """Where clients reach a protocol: as the plan says, or at the port that the engine took."""
    given, other = server.address, server.rest_address
    port = isolation.GRPC_PORT
    if protocol == "rest":
        given, other, port = other, given, isolation.REST_PORT
    if given:
        return given
    published = handle.attrs["NetworkSettings"]["Ports"][f"{port}/tcp"][0]["HostPort"]
    return f"{other.rpartition(':')[0] if other else '127.0.0.1'}:{published}"


def _about(client: Any, server: Server) -> dict[str, Any]:
    """The engine, and the machine that it runs on."""
    said = client.info()
    names = {"version": "ServerVersion", "system": "OperatingSystem", "kernel": "KernelVersion", "cpus": "NCPU"}
    engine_facts = {name: said.get(key) for name, key in {**names, "memory_bytes": "MemTotal"}.items()}
    return {"engine": {"address": server.engine or "local", **engine_facts}}


def _remove(handle: Any) -> None:
    """With its volume; one that is gone or going is fine, and one that is out of reach goes when its lease is over."""
    with contextlib.suppress(*engine.ERRORS):
        handle.remove(force=True, v=True)


def _remove_never_started(client: Any) -> None:
    """A controller that was killed between making a container and starting it left one that no lease can end."""
    ours = client.containers.list(all=True, filters={"label": LABEL, "status": "created"}, ignore_removed=True)
    for handle in ours:
        made = datetime.fromisoformat(handle.attrs["Created"])
        if (datetime.now(UTC) - made).total_seconds() > NEVER_STARTED_S:
            _remove(handle)
