"""Keeps the served models as the configuration says: loads the new beside the old, switches, and closes what is left.

A switch happens on the event loop between two requests; loading and closing happen in threads, where OpenVINO gives up
the GIL. What does not load leaves the old one serving. The semantics are those of OVMS's `online_config_changes.md`,
but for the start: a server does not start with a model that does not load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server import repository
from server.config import Configuration, ModelSettings
from server.engine import Engine
from server.errors import ReloadFailed, StartError
from server.plane import Plane, ServedModel
from server.repository import Fingerprint, ModelFile

log = logging.getLogger("loadproof-server")


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be served under a name; another target is another engine."""

    settings: ModelSettings
    file: ModelFile
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a model is not served as it should be, and the target unless it was not even found."""

    message: str
    target: Target | None = None


@dataclass(slots=True)
class Outcome:
    """Of one look at the configuration: whether a model was loaded or unloaded, and what went wrong."""

    changed: bool
    errors: list[str]


class Loader:
    """Loads, replaces and unloads the models of a plane; one reload at a time."""

    def __init__(self, plane: Plane, source: Callable[[], Configuration]) -> None:
        """`source` reads the configuration, in a thread; it raises StartError where that is broken."""
        self._plane = plane
        self._source = source
        self._lock = asyncio.Lock()
        self._stopping = False
        self._loaded: dict[str, Target] = {}
        self._loading: dict[str, str] = {}  # versions, by name
        self._failures: dict[str, Failure] = {}
        self._refusal: str | None = None  # of the configuration as a whole
        self._versions: dict[str, set[str]] = {}  # all that were ever served
        self._leaving: dict[ServedModel, asyncio.Task[None]] = {}
        self._reloads: set[asyncio.Task[Outcome]] = set()

    async def start(self) -> None:
        """Loads all models; raises StartError."""
        for settings, found in await asyncio.to_thread(self._survey):
            await self._update(settings, found, retry=True)
            if failure := self._failures.get(settings.name):
                raise StartError(failure.message)

    async def reload(self) -> bool:
        """Makes the models as the configuration says; what failed before is tried again.

        True where a model was loaded or unloaded. Raises ReloadFailed, which says why; the old ones serve on.
        """
        outcome = await asyncio.shield(self._begin(retry=True))  # it ends even if the client goes away
        if outcome.errors:
            raise ReloadFailed("; ".join(outcome.errors))
        return outcome.changed

    async def poll(self, interval_s: float) -> None:
        """Reloads whenever the configuration or a model's directory has changed; never returns."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.shield(self._begin(retry=False))

    def stop(self) -> None:
        """Loads nothing more, beyond the model that is being loaded."""
        self._stopping = True

    async def close(self) -> None:
        """Waits for the model that is being loaded, then closes all engines; requests must have ended."""
        self.stop()
        await asyncio.gather(*self._reloads)
        for name in self._plane.models:
            self._leave(self._plane.remove_model(name))
        await asyncio.gather(*self._leaving.values())

    def status(self) -> dict[str, Any]:
        """OVMS's answer to GET /v1/config; an error's message says why the configuration is not what is served."""
        names = {**self._versions, **self._loading, **self._failures}
        return {name: {"model_version_status": self._version_status(name)} for name in names}

    def _version_status(self, name: str) -> list[dict[str, Any]]:
        states = dict.fromkeys(self._versions.get(name, ()), "END")
        states |= {model.version: "UNLOADING" for model in self._leaving if model.name == name}
        served = self._plane.models.get(name)
        if served:
            states[served.version] = "AVAILABLE"
        if name in self._loading:
            states.setdefault(self._loading[name], "LOADING")
        failed, message = self._failed_version(name, served)
        if failed and states.get(failed) != "AVAILABLE":
            states[failed] = "LOADING"  # as OVMS says of a version that did not load
        return [
            _version_row(version, states[version], message if version == failed else "")
            for version in sorted(states, key=int)
        ]

    def _failed_version(self, name: str, served: ServedModel | None) -> tuple[str, str]:
        """The version that is not as the configuration says, and why; empty where all is well."""
        version = served.version if served else "0"  # nobody knows what was to be served
        if failure := self._failures.get(name):
            return failure.target.file.version if failure.target else version, failure.message
        return (version, self._refusal) if served and self._refusal else ("", "")

    def _begin(self, *, retry: bool) -> asyncio.Task[Outcome]:
        task = asyncio.create_task(self._reload(retry=retry))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return task

    async def _reload(self, *, retry: bool) -> Outcome:
        async with self._lock:
            try:
                found = await asyncio.to_thread(self._survey)
            except StartError as error:
                return self._refuse(str(error), retry=retry)
            except Exception as error:  # whatever it is, the server serves on and looks again
                return self._refuse(f"the configuration cannot be read: {type(error).__name__}: {error}", retry=retry)
            self._refusal = None
            outcome = Outcome(False, [])
            for settings, target in found:
                if self._stopping:
                    return Outcome(outcome.changed, ["the server is stopping"])
                started = time.perf_counter()
                if await self._update(settings, target, retry=retry):
                    outcome.changed = True
                    log.info("%s: loaded in %.3f s", self._plane.models[settings.name], time.perf_counter() - started)
            names = {settings.name for settings, _ in found}
            outcome.changed |= self._remove_all_but(names)
            outcome.errors += [failure.message for failure in self._failures.values()]
            return outcome

    def _survey(self) -> list[tuple[ModelSettings, Target | Failure]]:
        """In a thread: the configuration, and what its models are on disk; raises StartError where it is broken."""
        return [(settings, _look(settings)) for settings in self._source().models]

    async def _update(self, settings: ModelSettings, found: Target | Failure, *, retry: bool) -> bool:
        """Serves what was found, if that is new; True where it is served from now on."""
        name = settings.name
        if isinstance(found, Failure):
            return self._fail(name, found, retry=retry)
        if found == self._loaded.get(name):
            self._failures.pop(name, None)
            return False
        failure = self._failures.get(name)
        if failure and failure.target == found and not retry:
            return False
        self._loading[name] = found.file.version
        try:
            engine = await asyncio.to_thread(
                Engine, found.file.path, settings.target_device, settings.plugin_config, settings.nireq
            )
        except Exception as error:  # whatever it is, the old one serves on
            message = " ".join(str(error).split()) or type(error).__name__
            return self._fail(name, Failure(f"model {name}: {message}", found), retry=retry)
        finally:
            del self._loading[name]
        self._switch(found, engine)
        return True

    def _switch(self, target: Target, engine: Engine) -> None:
        name, version = target.settings.name, target.file.version
        replaced = self._plane.add_model(name, version, engine)
        self._loaded[name] = target
        self._versions.setdefault(name, set()).add(version)
        self._failures.pop(name, None)
        if replaced:
            self._leave(replaced)

    def _remove_all_but(self, names: set[str]) -> bool:
        for name in self._failures.keys() - names:
            del self._failures[name]
        gone = self._plane.models.keys() - names
        for name in gone:
            del self._loaded[name]
            self._leave(self._plane.remove_model(name))
            log.info("model %s: no longer in the configuration", name)
        return bool(gone)

    def _leave(self, model: ServedModel) -> None:
        task = asyncio.create_task(self._unload(model))
        self._leaving[model] = task
        task.add_done_callback(lambda _: self._leaving.pop(model))

    async def _unload(self, model: ServedModel) -> None:
        await model.idle()
        await asyncio.to_thread(model.engine.close)
        log.info("model %s version %s: unloaded the old engine", model.name, model.version)

    def _fail(self, name: str, failure: Failure, *, retry: bool) -> bool:
        if retry or self._failures.get(name) != failure:  # polling says it once
            log.error("%s%s", failure.message, "; the old one serves on" if name in self._loaded else "")
        self._failures[name] = failure
        return False

    def _refuse(self, message: str, *, retry: bool) -> Outcome:
        if retry or self._refusal != message:
            log.error("%s; the old configuration serves on", message)
        self._refusal = message
        return Outcome(False, [message])


def _look(settings: ModelSettings) -> Target | Failure:
    try:
        file = repository.find(settings.base_path, settings.path_key)
        return Target(settings, file, repository.fingerprint(file))
    except StartError as error:
        return Failure(str(error))
    except OSError as error:
        return Failure(f"{settings.path_key}: {error.filename} cannot be read ({error.strerror})")


def _version_row(version: str, state: str, message: str) -> dict[str, Any]:
    code = "UNKNOWN" if message else "OK"
    return {"version": version, "state": state, "status": {"error_code": code, "error_message": message or "OK"}}
