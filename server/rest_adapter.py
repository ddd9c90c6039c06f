"""KServe v2 over REST, with the binary tensor extension, and OVMS's /v1/config: an ASGI application over the plane."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from server import engine, metric_names
from server.engine import TensorSpec
from server.errors import NotFound, NotSupported, ServingError, TooLarge, WrongMethod
from server.loader import Loader
from server.metrics import CONTENT_TYPE
from server.plane import EXTENSIONS, PLATFORM, SERVER_NAME, Plane, ServedModel
from server.rest_messages import JSON_TYPE, encode, parse

MAX_BODY_BYTES: Final = 1 << 30

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[bytes, bytes]
Reply = tuple[int, list[tuple[bytes, bytes]], bytes]

_MODEL_PATH: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")
_HEADER_LENGTH: Final = b"inference-header-content-length"


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


class RestApp:
    """The ASGI application; errors become {"error": "..."} with their HTTP status."""

    def __init__(
        self,
        plane: Plane,
        loader: Loader | None = None,
        *,
        metrics_enabled: bool = False,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        """Without a loader the models stay as they are and /v1/config is unknown."""
        self._plane = plane
        self._loader = loader
        self._metrics_enabled = metrics_enabled
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, headers, body = await self._reply(scope, receive)
        except ServingError as error:
            status, headers, body = _json(error.http_status, {"error": str(error)})
            if isinstance(error, TooLarge):
                headers.append((b"connection", b"close"))  # or the client would go on sending
            if isinstance(error, WrongMethod):
                headers.append((b"allow", error.allowed.encode()))
        except ClientGone:
            return
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path: str = scope["path"]
        if match := _MODEL_PATH.fullmatch(path):
            name, version, action = match.groups(default="")
            if action == "infer":
                _expect(scope, "POST")
                return await self._infer(name, version, dict(scope["headers"]), receive)
            _expect(scope, "GET", "HEAD")  # uvicorn leaves the body of an answer to HEAD out
            model = self._plane.model(name, version)
            return _ready(self._plane.ready) if action == "ready" else _json(200, _model_metadata(model))
        if path == "/v1/config/reload" and self._loader:
            _expect(scope, "POST")
            changed = await self._loader.reload()
            return _json(201 if changed else 200, self._loader.status())
        handler = self._handlers().get(path)
        if handler is None:
            raise NotFound(f"path {path[:100]!r}: unknown")
        _expect(scope, "GET", "HEAD")
        return handler()

    def _handlers(self) -> dict[str, Callable[[], Reply]]:
        handlers: dict[str, Callable[[], Reply]] = {
            "/v2/health/live": lambda: _json(200, {"live": True}),
            "/v2/health/ready": lambda: _ready(self._plane.ready),
            "/v2": lambda: _json(
                200, {"name": SERVER_NAME, "version": engine.version(), "extensions": list(EXTENSIONS)}
            ),
        }
        if self._loader:
            loader = self._loader
            handlers["/v1/config"] = lambda: _json(200, loader.status())
        if self._metrics_enabled:
            handlers["/metrics"] = self._metrics
        return handlers

    def _metrics(self) -> Reply:
        return 200, [(b"content-type", CONTENT_TYPE.encode())], self._plane.metrics.render()

    async def _infer(self, name: str, version: str, headers: Headers, receive: Receive) -> Reply:
        with self._plane.call(metric_names.REST) as call:
            model = call.model(name, version)
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise NotSupported("header Content-Encoding: compressed bodies are not supported")
            body = await self._body(headers, receive)
            message = parse(body, headers.get(_HEADER_LENGTH))
            answer = await model.infer(message.inputs, message.output_names)
            return encode(model, message, answer)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body; refused before it is read where its length is told and too large."""
        if int(headers.get(b"content-length", b"0")) > self._max_body_bytes:
            raise TooLarge(f"body: larger than {self._max_body_bytes} bytes")
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                raise TooLarge(f"body: larger than {self._max_body_bytes} bytes")
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _expect(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise WrongMethod(f"method {scope['method']}: {scope['path'][:100]} takes {methods[0]}", ", ".join(methods))


def _json(status: int, content: Any) -> Reply:
    return status, [JSON_TYPE], json.dumps(content).encode()


def _ready(ready: bool) -> Reply:
    return _json(200 if ready else 503, {"ready": ready})


def _model_metadata(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [_tensor_metadata(spec) for spec in model.engine.inputs],
        "outputs": [_tensor_metadata(spec) for spec in model.engine.outputs],
    }


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
