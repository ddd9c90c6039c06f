"""KServe v2 over REST, with the binary tensor extension, and OVMS's /v1/config: from requests to the plane and back."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from loadproof_server.connections.http1_request import JSON_TYPE, Reply, Request
from loadproof_server.dataplane import metric_names
from loadproof_server.dataplane.metrics import CONTENT_TYPE
from loadproof_server.dataplane.model import ServedModel
from loadproof_server.dataplane.plane import EXTENSIONS, PLATFORM, SERVER_NAME, Plane
from loadproof_server.engine.compiling import openvino_version
from loadproof_server.engine.specs import TensorSpec
from loadproof_server.errors import NotFound, NotSupported, ServingError, WrongMethod
from loadproof_server.kserve import triton
from loadproof_server.kserve.all_workers import AllWorkers
from loadproof_server.kserve.json_process import JsonProcess
from loadproof_server.kserve.rest_messages import HEADER_LENGTH

_MODEL_PATH: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer|config|stats))?")
_ALL_STATISTICS: Final = "/v2/models/stats"


class RestApp:
    """The application; errors become {"error": "..."} with their HTTP status."""

    def __init__(
        self,
        plane: Plane,
        workers: AllWorkers | None = None,
        *,
        metrics_enabled: bool = False,
    ) -> None:
        """Without a loader in `workers` the models stay as they are, and /v1/config is unknown."""
        self._plane = plane
        self._workers = workers or AllWorkers(plane)
        self._metrics_enabled = metrics_enabled
        self._json = JsonProcess()

    async def __call__(self, request: Request) -> Reply:
        try:
            return await self._reply(request)
        except ServingError as error:
            status, headers, body = _json(error.http_status, {"error": str(error)})
            if isinstance(error, WrongMethod):
                headers = [*headers, (b"allow", error.allowed.encode())]
            return status, headers, body

    async def _reply(self, request: Request) -> Reply:
        path = request.path
        match = _MODEL_PATH.fullmatch(path)
        if match and path != _ALL_STATISTICS:
            name, version, action = match.groups(default="")
            if action == "infer":
                _expect(request, "POST")
                return await self._infer(name, version, request)
            _expect(request, "GET", "HEAD")
            return await self._about_model(name, version, action)
        if path == "/v2/repository/index":
            _expect(request, "POST")
            return _json(200, triton.index(self._plane))
        if path == "/v1/config/reload" and self._workers.loader:
            _expect(request, "POST")
            changed = await self._workers.reload()
            return _json(201 if changed else 200, await self._workers.status())
        handler = self._handlers().get(path)
        if handler is None:
            raise NotFound(f"path {path[:100]!r}: unknown")
        _expect(request, "GET", "HEAD")
        return await handler()

    async def _about_model(self, name: str, version: str, action: str) -> Reply:
        if action == "ready":
            with self._plane.lookup(metric_names.REST, metric_names.MODEL_READY) as lookup:
                lookup.model(name, version)
                return _ready(self._plane.ready)
        if action == "config":
            return _json(200, triton.config(self._plane.model(name, version)))
        if action == "stats":
            return _json(200, {"model_stats": await self._workers.statistics(name, version)})
        with self._plane.lookup(metric_names.REST, metric_names.MODEL_METADATA) as lookup:
            return _json(200, self._model_metadata(lookup.model(name, version)))

    def _handlers(self) -> dict[str, Callable[[], Awaitable[Reply]]]:
        handlers: dict[str, Callable[[], Awaitable[Reply]]] = {
            "/v2/health/live": self._live,
            "/v2/health/ready": self._is_ready,
            _ALL_STATISTICS: self._statistics,
            "/v2": self._metadata,
        }
        if self._workers.loader:
            handlers["/v1/config"] = self._status
        if self._metrics_enabled:
            handlers["/metrics"] = self._metrics
        return handlers

    async def _live(self) -> Reply:
        return _json(200, {"live": True})

    async def _is_ready(self) -> Reply:
        return _ready(self._plane.ready)

    async def _metadata(self) -> Reply:
        return _json(200, {"name": SERVER_NAME, "version": openvino_version(), "extensions": list(EXTENSIONS)})

    async def _statistics(self) -> Reply:
        return _json(200, {"model_stats": await self._workers.statistics()})

    async def _status(self) -> Reply:
        return _json(200, await self._workers.status())

    async def _metrics(self) -> Reply:
        return 200, [(b"content-type", CONTENT_TYPE.encode())], [await self._workers.metrics()]

    def _model_metadata(self, model: ServedModel) -> dict[str, Any]:
        return {
            "name": model.name,
            "versions": list(self._plane.versions(model.name)),
            "platform": PLATFORM,
            "inputs": [_tensor_metadata(spec) for spec in model.engine.inputs],
            "outputs": [_tensor_metadata(spec) for spec in model.engine.outputs],
        }

    async def _infer(self, name: str, version: str, request: Request) -> Reply:
        with self._plane.call(metric_names.REST) as call:
            model = call.model(name, version)
            if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise NotSupported("header Content-Encoding: compressed bodies are not supported")
            message = await self._json.parse(await request.body(), request.headers.get(HEADER_LENGTH))
            answer = await model.infer(message.inputs, message.output_names)
            return await self._json.encode(model.name, model.version, message, answer)

    async def close(self) -> None:
        """Ends the JSON process."""
        await self._json.close()


def _expect(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise WrongMethod(f"method {request.method}: {request.path[:100]} takes {methods[0]}", ", ".join(methods))


def _json(status: int, content: Any) -> Reply:
    return status, [JSON_TYPE], [json.dumps(content).encode()]


def _ready(ready: bool) -> Reply:
    return _json(200 if ready else 503, {"ready": ready})


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
