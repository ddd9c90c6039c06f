"""The data plane: finds the model, checks a request against its metadata, runs it and counts it; no protocol in it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from loadproof_server import images
from loadproof_server.engine import Answer, Engine, TensorSpec
from loadproof_server.errors import InvalidRequest, NotFound, ServingError
from loadproof_server.messages import InputTensor
from loadproof_server.metric_names import MODEL_READY, UNKNOWN_MODEL
from loadproof_server.metrics import Metrics, ModelMetrics
from loadproof_server.tensors import BYTES, DATATYPES, Array

SERVER_NAME: Final = "loadproof-server"
PLATFORM: Final = "OpenVINO"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "statistics", "model_repository")
_STRINGS_AT_ONCE: Final = 1000  # more are read in a thread


@dataclass(eq=False, slots=True)
class ServedModel:
    """A model by its served name and version; `in_flight` requests hold its engine, whatever serves new ones."""

    name: str
    version: str
    engine: Engine
    metrics: ModelMetrics
    in_flight: int = 0
    input_positions: dict[str, int] = field(init=False)
    output_positions: dict[str, int] = field(init=False)
    _idle: asyncio.Event | None = None

    def __post_init__(self) -> None:
        self.input_positions = _positions(self.engine.inputs)
        self.output_positions = _positions(self.engine.outputs)

    def __str__(self) -> str:
        engine = self.engine
        return (
            f"{self.name} version {self.version} on {engine.device} with {engine.nireq} infer requests "
            f"and {engine.streams} streams"
        )

    def hold(self) -> None:
        self.in_flight += 1
        self.metrics.current_requests += 1

    def release(self) -> None:
        self.in_flight -= 1
        self.metrics.current_requests -= 1
        if self._idle is not None and self.in_flight == 0:
            self._idle.set()

    async def idle(self) -> None:
        """Returns when no request holds the engine; the plane must give it to no more of them."""
        self._idle = asyncio.Event()
        if self.in_flight:
            await self._idle.wait()

    def read_inputs(self, given: Sequence[InputTensor]) -> list[Array]:
        """The model's inputs, in its order; raises InvalidRequest that names the first input that is wrong."""
        arrays: list[Array | None] = [None] * len(self.engine.inputs)
        for tensor in given:
            position = self.input_positions.get(tensor.name)
            if position is None:
                raise InvalidRequest(
                    f"input {_quoted(tensor.name)}: unknown; {self.name} has {_names(self.engine.inputs)}"
                )
            if arrays[position] is not None:
                raise InvalidRequest(f"input {tensor.name}: given twice")
            arrays[position] = _read(tensor, self.engine.inputs[position])
        missing = [spec.name for spec, array in zip(self.engine.inputs, arrays, strict=True) if array is None]
        if missing:
            raise InvalidRequest(f"input {missing[0]}: missing")
        return [array for array in arrays if array is not None]

    def _takes_long(self, given: Sequence[InputTensor]) -> bool:
        """Whether there are images, which Pillow decodes without the GIL, or many strings, read one by one."""
        return any(
            tensor.datatype == BYTES
            and (
                math.prod(tensor.shape) > _STRINGS_AT_ONCE
                or _is_image(tensor, self.engine.inputs[self.input_positions[tensor.name]])
            )
            for tensor in given
            if tensor.name in self.input_positions
        )

    def wanted_outputs(self, names: Sequence[str]) -> Sequence[int]:
        """The positions of the outputs asked for; none named means all."""
        if not names:
            return range(len(self.engine.outputs))
        for name in names:
            if name not in self.output_positions:
                raise InvalidRequest(f"output {_quoted(name)}: unknown; {self.name} has {_names(self.engine.outputs)}")
        if len(set(names)) < len(names):
            raise InvalidRequest(f"output {max(names, key=names.count)}: asked for twice")
        return [self.output_positions[name] for name in names]

    async def infer(self, inputs: Sequence[InputTensor], outputs: Sequence[str]) -> Answer:
        """The answer, once an infer request was free; the times go into the model's metrics."""
        wanted = self.wanted_outputs(outputs)
        if self._takes_long(inputs):
            arrays = await asyncio.to_thread(self.read_inputs, inputs)
        else:
            arrays = self.read_inputs(inputs)
        if self.engine.quick:
            answer = self.engine.infer_here(arrays, wanted)
        else:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[Answer] = loop.create_future()
            job = self.engine.submit(arrays, wanted, lambda result: _hand_over(loop, future, result))
            try:
                answer = await future
            except asyncio.CancelledError:  # the client went away
                job.drop()
                raise
        self.metrics.wait_time.observe(answer.wait_us)
        self.metrics.inference_time.observe(answer.inference_us)
        self.metrics.last_inference_ms = int(time.time() * 1000)
        return answer


class Lookup:
    """A ModelMetadata or ModelReady on its way: `with plane.lookup(...) as lookup` counts it once."""

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
    """A ModelInfer request on its way: `with plane.call(...)` counts it once, as success or as failure."""

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
        """Serves the version from the next request on; the one that it replaces comes back, to be closed when idle."""
        metrics = self.metrics.add_model(name, version, engine.streams)
        metrics.queue_size, metrics.active = engine.nireq, lambda: engine.active
        versions = self.versions(name)
        replaced = versions.get(version)
        versions[version] = ServedModel(name, version, engine, metrics)
        self._route(name, versions)
        return replaced

    def remove_model(self, name: str, version: str) -> ServedModel:
        """No new request gets the version, which comes back to be closed when idle; its counters stay."""
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
                raise NotFound(f"model {_quoted(name)}: unknown; this server has {', '.join(self._models) or 'none'}")
            raise NotFound(f"version {_quoted(version)} of model {name}: unknown; this server has {', '.join(served)}")
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


def _read(tensor: InputTensor, spec: TensorSpec) -> Array:
    if _is_image(tensor, spec):
        if len(tensor.shape) != 1:
            raise InvalidRequest(f"input {spec.name}: shape must be [N] for N images, not {_short(tensor.shape)}")
        files = tensor.read(f"input {spec.name}", BYTES, tensor.shape, tensor.data)
        return images.decode(f"input {spec.name}", spec, files.tolist())
    if tensor.datatype != spec.datatype:
        known = "" if tensor.datatype in DATATYPES else ", which is no KServe datatype"
        raise InvalidRequest(
            f"input {spec.name}: datatype must be {spec.datatype}, not {_quoted(tensor.datatype)}{known}"
        )
    if not spec.accepts(tensor.shape):
        raise InvalidRequest(f"input {spec.name}: shape must be {list(spec.shape)}, not {_short(tensor.shape)}")
    return tensor.read(f"input {spec.name}", spec.datatype, tensor.shape, tensor.data)


def _is_image(tensor: InputTensor, spec: TensorSpec) -> bool:
    return tensor.datatype == BYTES != spec.datatype


def _hand_over(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Answer], result: Answer | ServingError) -> None:
    loop.call_soon_threadsafe(_settle, future, result)


def _settle(future: asyncio.Future[Answer], result: Answer | ServingError) -> None:
    if future.cancelled():  # the client went away; its infer request is free again all the same
        return
    if isinstance(result, ServingError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _positions(specs: Sequence[TensorSpec]) -> dict[str, int]:
    return {spec.name: position for position, spec in enumerate(specs)}


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _quoted(text: str) -> str:
    """A client's own text, bounded, for a message."""
    return repr(text if len(text) <= 100 else text[:100] + "...")


def _short(shape: Sequence[int]) -> str:
    return str(list(shape[:16])) if len(shape) <= 16 else f"{list(shape[:16])} and {len(shape) - 16} dimensions more"
