"""The data plane: the served models by name and version, and the count of each request; free of any protocol."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from loadproof_server.dataplane.metric_names import MODEL_READY, UNKNOWN_MODEL
from loadproof_server.dataplane.metrics import Metrics
from loadproof_server.dataplane.model import ServedModel, quoted
from loadproof_server.engine.requests import Engine
from loadproof_server.errors import NotFound

SERVER_NAME: Final = "loadproof-server"
PLATFORM: Final = "OpenVINO"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "statistics", "model_repository")


class Lookup:
    """A ModelMetadata or ModelReady request in progress: `with plane.lookup(...) as lookup` counts it once."""

    __slots__ = ("_interface", "_method", "_model", "_plane")

    def __init__(self, plane: Plane, interface: str, method: str) -> None:
        self._plane, self._interface, self._method = plane, interface, method
        self._model: ServedModel | None = None

    def model(self, name: str, version: str) -> ServedModel:
        """The model that the request names; raises NotFound."""
        self._model = self._plane.model(name, version)
        return self._model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        name, version = (self._model.name, self._model.version) if self._model else UNKNOWN_MODEL
        shown = "" if self._method == MODEL_READY else version
        self._plane.metrics.count_lookup(self._interface, self._method, name, shown, success=kind is None)


class Call:
    """A ModelInfer request in progress: `with plane.call(...)` counts it once, as success or as failure."""

    __slots__ = ("_interface", "_model", "_plane", "_started_ns")

    def __init__(self, plane: Plane, interface: str) -> None:
        self._plane = plane
        self._interface = interface
        self._model: ServedModel | None = None

    def model(self, name: str, version: str) -> ServedModel:
        """The model that the request names: it counts in its metrics and keeps its engine until the request ends."""
        self._model = self._plane.model(name, version)
        self._model.hold()
        return self._model

    def __enter__(self) -> Self:
        self._started_ns = time.perf_counter_ns()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        metrics = self._model.metrics if self._model else self._plane.metrics.unknown
        counts = metrics.interfaces[self._interface]
        if kind is None:
            counts.success += 1
            counts.request_time.observe((time.perf_counter_ns() - self._started_ns) / 1e3)
        else:
            counts.fail += 1
        if self._model:
            self._model.release()


class Plane:
    """The served models and the state of the server."""

    def __init__(self, metrics: Metrics) -> None:
        """It serves at once; a server that is not yet complete sets `accepting` to False."""
        self.metrics = metrics
        self.accepting = True
        self._models: dict[str, dict[str, ServedModel]] = {}
        self._routes: dict[tuple[str, str], ServedModel] = {}  # by name and version, "" for the latest

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self.accepting and bool(self._routes)

    @property
    def models(self) -> list[ServedModel]:
        """What new requests get, by name and then lowest version first."""
        return [model for versions in self._models.values() for model in versions.values()]

    def versions(self, name: str) -> dict[str, ServedModel]:
        """The served versions of a model, lowest first; none where it is unknown."""
        return dict(self._models.get(name, {}))

    def add_model(self, name: str, version: str, engine: Engine) -> ServedModel | None:
        """Serves the version from the next request on; returns the one that it replaces, to be closed when idle."""
        metrics = self.metrics.add_model(name, version, engine.streams)
        metrics.queue_size, metrics.active = engine.nireq, lambda: engine.active
        versions = self.versions(name)
        replaced = versions.get(version)
        versions[version] = ServedModel(name, version, engine, metrics)
        self._route(name, versions)
        return replaced

    def remove_model(self, name: str, version: str) -> ServedModel:
        """Gives the version to no new request, and returns it to be closed when idle; its counters stay."""
        versions = self.versions(name)
        removed = versions.pop(version)
        removed.metrics.streams = removed.metrics.queue_size = 0
        removed.metrics.active = lambda: 0
        self._route(name, versions)
        return removed

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model; an empty version is the latest that is served. Raises NotFound."""
        model = self._routes.get((name, version))
        if model is None:
            served = self._models.get(name)
            if served is None:
                raise NotFound(f"model {quoted(name)}: unknown; this server has {', '.join(self._models) or 'none'}")
            raise NotFound(f"version {quoted(version)} of model {name}: unknown; this server has {', '.join(served)}")
        return model

    def call(self, interface: str) -> Call:
        return Call(self, interface)

    def lookup(self, interface: str, method: str) -> Lookup:
        return Lookup(self, interface, method)

    def _route(self, name: str, versions: dict[str, ServedModel]) -> None:
        for version in ("", *self._models.get(name, {})):
            self._routes.pop((name, version), None)
        if not versions:
            self._models.pop(name, None)
            return
        ordered = {version: versions[version] for version in sorted(versions, key=int)}
        self._models[name] = ordered
        self._routes |= {(name, version): model for version, model in ordered.items()}
        self._routes[name, ""] = list(ordered.values())[-1]
