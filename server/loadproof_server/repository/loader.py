"""Keeps the served models as configured: loads a new version beside the old one, switches, and closes the old one.

A switch happens on the event loop between two requests; loading and closing happen in threads, where OpenVINO gives up
the GIL. A version that does not load leaves the old one serving: no version is removed while another of its model
fails, and a server that starts then, or loads the model anew, serves older versions in place of the latest ones.
Polling loads what has changed once two looks in a row find the same files: a version that is being copied waits. The
semantics are those of OVMS's `online_config_changes.md`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadproof_server.dataplane.model import ServedModel
from loadproof_server.dataplane.plane import Plane
from loadproof_server.engine.requests import Engine
from loadproof_server.errors import ReloadFailed, StartError
from loadproof_server.repository import versions
from loadproof_server.repository.settings import Configuration, ModelSettings
from loadproof_server.repository.versions import Fingerprint, ModelFile

log = logging.getLogger("loadproof-server")

Key = tuple[str, str]  # a model's name and version
_NOT_FOUND: Final = ""  # the version in the key of a model that has no version


@dataclass(frozen=True, slots=True)
class Target:
    """One version to be served; each target has an engine of its own."""

    settings: ModelSettings
    file: ModelFile
    fingerprint: Fingerprint

    @property
    def key(self) -> Key:
        return self.settings.name, self.file.version


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version is not served as configured, and its target, if that was found."""

    message: str
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A model on disk: by version, what its policy wants; and older versions, the latest first."""

    settings: ModelSettings
    wanted: Mapping[str, Target | Failure]
    older: Sequence[int] = ()

    @property
    def keys(self) -> set[Key]:
        return {(self.settings.name, version) for version in self.wanted}


@dataclass(slots=True)
class Outcome:
    """Of one reload: whether a model was loaded or unloaded, and what went wrong."""

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
        self._loaded: dict[Key, Target] = {}
        self._seen: dict[Key, Fingerprint] = {}  # when last looked at
        self._loading: Key | None = None
        self._failures: dict[Key, Failure] = {}
        self._refusal: str | None = None  # of the configuration as a whole
        self._versions: dict[str, set[str]] = {}  # all that were ever served
        self._unloading: dict[ServedModel, asyncio.Task[None]] = {}
        self._reloads: set[asyncio.Task[Outcome]] = set()

    async def start(self, *, need_model: bool = False) -> None:
        """Loads all models that load, and reports the others as a reload does.

        Raises StartError where the configuration is broken, or where no model loads although one is needed.
        """
        for found in await asyncio.to_thread(self._find_models):
            await self._update(found, retry=True)
        if need_model and not self._loaded:
            for failure in self._failures.values():
                raise StartError(failure.message)

    async def reload(self) -> bool:
        """Loads and unloads models as configured, and retries what failed before.

        True where a model was loaded or unloaded. Raises ReloadFailed with the reasons; the old models serve on.
        """
        outcome = await asyncio.shield(self._start_reload(retry=True))  # it ends even if the client goes away
        if outcome.errors:
            raise ReloadFailed("; ".join(outcome.errors))
        return outcome.changed

    async def poll(self, interval_s: float) -> None:
        """Reloads when the configuration or a model's directory has changed, once it is settled; never returns."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.shield(self._start_reload(retry=False))

    def stop(self) -> None:
        """Loads nothing more, beyond the model that is being loaded."""
        self._stopping = True

    async def close(self) -> None:
        """Waits for the model that is being loaded, then closes all engines; requests must have ended."""
        self.stop()
        await asyncio.gather(*self._reloads)
        for model in self._plane.models:
            self._unload_when_idle(self._plane.remove_model(model.name, model.version))
        await asyncio.gather(*self._unloading.values())

    def status(self) -> dict[str, Any]:
        """OVMS's answer to GET /v1/config; an error's message says why the configuration is not what is served."""
        names = dict.fromkeys(
            (*self._versions, *(name for name, _ in (*self._failures, *filter(None, [self._loading]))))
        )
        return {name: {"model_version_status": self._version_status(name)} for name in names}

    def _version_status(self, name: str) -> list[dict[str, Any]]:
        served = self._plane.versions(name)
        states = dict.fromkeys(self._versions.get(name, ()), "END")
        states |= {model.version: "UNLOADING" for model in self._unloading if model.name == name}
        states |= dict.fromkeys(served, "AVAILABLE")
        if self._loading and self._loading[0] == name:
            states.setdefault(self._loading[1], "LOADING")
        messages = {}
        if not_found := self._failures.get((name, _NOT_FOUND)):
            messages = dict.fromkeys(
                served or ["0"], not_found.message
            )  # "0": it is unknown which version was to be served
        elif self._refusal:
            messages = dict.fromkeys(served, self._refusal)
        messages |= {key[1]: failure.message for key, failure in self._failures.items() if key[0] == name and key[1]}
        for version in messages:
            if states.get(version) != "AVAILABLE":
                states[version] = "LOADING"  # as OVMS says of a version that did not load
        return [
            _version_row(version, states[version], messages.get(version, "")) for version in sorted(states, key=int)
        ]

    def _start_reload(self, *, retry: bool) -> asyncio.Task[Outcome]:
        task = asyncio.create_task(self._reload(retry=retry))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return task

    async def _reload(self, *, retry: bool) -> Outcome:
        async with self._lock:
            try:
                models = await asyncio.to_thread(self._find_models)
            except StartError as error:
                return self._refuse(str(error), retry=retry)
            except Exception as error:  # of any kind: the server serves on and tries again
                return self._refuse(f"the configuration cannot be read: {type(error).__name__}: {error}", retry=retry)
            self._refusal = None
            outcome = Outcome(False, [])
            for found in models:
                outcome.changed |= await self._update(found, retry=retry)
                if self._stopping:
                    return Outcome(outcome.changed, ["the server is stopping"])
            outcome.changed |= self._remove_all_but({found.settings.name for found in models})
            outcome.errors += [failure.message for failure in self._failures.values()]
            return outcome

    def _find_models(self) -> list[Found]:
        """In a thread: reads the configuration and finds its models on disk; raises StartError where it is broken."""
        return [_find_model(settings) for settings in self._source().models]

    async def _update(self, found: Found, *, retry: bool) -> bool:
        """Serves the wanted versions, and removes others once these are served; True where something has changed."""
        name = found.settings.name
        if _NOT_FOUND not in found.wanted:
            self._forget_failures(name, found.keys | {(name, str(version)) for version in found.older})
        changed = False
        for version, one in found.wanted.items():
            changed |= await self._load((name, version), one, retry=retry)
        if all(one == self._loaded.get((name, version)) for version, one in found.wanted.items()):
            self._forget_failures(name, found.keys)
            return changed | self._remove([key for key in self._loaded if key[0] == name and key not in found.keys])
        return changed | await self._load_older(found, retry=retry)

    async def _load_older(self, found: Found, *, retry: bool) -> bool:
        """Serves older versions in place of those that do not load, until there are as many as wanted."""
        name, changed = found.settings.name, False
        for version in found.older:
            key = name, str(version)
            if key in self._loaded or len(self._plane.versions(name)) < len(found.wanted):
                one = await asyncio.to_thread(_open_version, found.settings, version)
                changed |= await self._load(key, one, retry=retry)
        return changed

    async def _load(self, key: Key, target: Target | Failure, *, retry: bool) -> bool:
        """Serves the target, if that is new; True where it is served from now on."""
        if self._stopping:
            return False
        if isinstance(target, Failure):
            self._fail(key, target, retry=retry)
            return False
        settled = self._seen.get(key) == target.fingerprint
        self._seen[key] = target.fingerprint
        if target == self._loaded.get(key):
            self._failures.pop(key, None)
            return False
        failure = self._failures.get(key)
        if not retry and (not settled or (failure and failure.target == target)):
            return False
        started = time.perf_counter()
        self._loading = key
        try:
            engine = await asyncio.to_thread(_engine, target)
        except Exception as error:  # of any kind: the old one serves on
            message = " ".join(str(error).split()) or type(error).__name__
            self._fail(key, Failure(f"model {key[0]}: {message}", target), retry=retry)
            return False
        finally:
            self._loading = None
        self._switch(target, engine)
        in_use = ", ".join(f"{name}={value}" for name, value in engine.in_use.items())
        log.info("%s: loaded in %.3f s; in use: %s", self._plane.model(*key), time.perf_counter() - started, in_use)
        return True

    def _switch(self, target: Target, engine: Engine) -> None:
        name, version = target.key
        replaced = self._plane.add_model(name, version, engine)
        self._loaded[target.key] = target
        self._versions.setdefault(name, set()).add(version)
        self._failures.pop(target.key, None)
        if replaced:
            self._unload_when_idle(replaced)

    def _forget_failures(self, name: str, but: set[Key]) -> None:
        for key in [key for key in self._failures if key[0] == name and key not in but]:
            del self._failures[key]

    def _remove_all_but(self, names: set[str]) -> bool:
        for name in {name for name, _ in self._failures} - names:
            self._forget_failures(name, set())
        return self._remove([key for key in self._loaded if key[0] not in names])

    def _remove(self, keys: list[Key]) -> bool:
        for key in keys:
            del self._loaded[key]
            self._unload_when_idle(self._plane.remove_model(*key))
            log.info("model %s version %s: no longer served", *key)
        return bool(keys)

    def _unload_when_idle(self, model: ServedModel) -> None:
        task = asyncio.create_task(self._unload(model))
        self._unloading[model] = task
        task.add_done_callback(lambda _: self._unloading.pop(model))

    async def _unload(self, model: ServedModel) -> None:
        await model.idle()
        await asyncio.to_thread(model.engine.close)
        log.info("model %s version %s: unloaded the old engine", model.name, model.version)

    def _fail(self, key: Key, failure: Failure, *, retry: bool) -> None:
        if retry or self._failures.get(key) != failure:  # polling logs it once
            log.error("%s%s", failure.message, "; the old one serves on" if self._plane.versions(key[0]) else "")
        self._failures[key] = failure

    def _refuse(self, message: str, *, retry: bool) -> Outcome:
        if retry or self._refusal != message:
            log.error("%s; the old configuration serves on", message)
        self._refusal = message
        return Outcome(False, [message])


def _find_model(settings: ModelSettings) -> Found:
    policy = settings.version_policy
    try:
        there = versions.find(settings.base_path, settings.path_key)
    except StartError as error:
        return Found(settings, {_NOT_FOUND: Failure(str(error))})
    chosen = there if settings.base_path.is_file() else policy.choose(there)
    older = [] if policy.specific else [version for version in reversed(there) if version < chosen[0]]
    return Found(settings, {str(version): _open_version(settings, version) for version in chosen}, older)


def _open_version(settings: ModelSettings, version: int) -> Target | Failure:
    try:
        return Target(settings, *versions.open_version(settings.base_path, version, settings.path_key))
    except StartError as error:
        return Failure(str(error))


def _engine(target: Target) -> Engine:
    settings = target.settings
    return Engine(
        target.file.path, settings.target_device, settings.plugin_config, settings.nireq, settings.preparation
    )


def _version_row(version: str, state: str, message: str) -> dict[str, Any]:
    code = "UNKNOWN" if message else "OK"
    return {"version": version, "state": state, "status": {"error_code": code, "error_message": message or "OK"}}
