"""One version of a served model: reads a request's inputs as its metadata says, infers, and keeps the times."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from loadproof_server.dataplane import images
from loadproof_server.dataplane.inputs import InputTensor
from loadproof_server.dataplane.metrics import ModelMetrics
from loadproof_server.engine.requests import Engine
from loadproof_server.engine.specs import Answer, TensorSpec
from loadproof_server.errors import InvalidRequest, ServingError
from loadproof_server.tensors.datatypes import BYTES, DATATYPES, Array

_STRINGS_INLINE: Final = 1000  # more are read in a thread


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
                    f"input {quoted(tensor.name)}: unknown; {self.name} has {_names(self.engine.inputs)}"
                )
            if arrays[position] is not None:
                raise InvalidRequest(f"input {tensor.name}: given twice")
            arrays[position] = _read(tensor, self.engine.inputs[position])
        missing = [spec.name for spec, array in zip(self.engine.inputs, arrays, strict=True) if array is None]
        if missing:
            raise InvalidRequest(f"input {missing[0]}: missing")
        return [array for array in arrays if array is not None]

    def _takes_long(self, given: Sequence[InputTensor]) -> bool:
        """Whether to read in a thread: images, which Pillow decodes without the GIL, or many strings."""
        return any(
            tensor.datatype == BYTES
            and (
                math.prod(tensor.shape) > _STRINGS_INLINE
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
                raise InvalidRequest(f"output {quoted(name)}: unknown; {self.name} has {_names(self.engine.outputs)}")
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
            answer = self.engine.infer_inline(arrays, wanted)
        else:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[Answer] = loop.create_future()
            job = self.engine.submit(arrays, wanted, lambda result: _resolve_threadsafe(loop, future, result))
            try:
                answer = await future
            except asyncio.CancelledError:  # the client went away
                job.drop()
                raise
        self.metrics.wait_time.observe(answer.wait_us)
        self.metrics.inference_time.observe(answer.inference_us)
        self.metrics.last_inference_ms = int(time.time() * 1000)
        return answer


def quoted(text: str) -> str:
    """A client's own text, bounded, for a message."""
    return repr(text if len(text) <= 100 else text[:100] + "...")


def _read(tensor: InputTensor, spec: TensorSpec) -> Array:
    if _is_image(tensor, spec):
        if len(tensor.shape) != 1:
            raise InvalidRequest(f"input {spec.name}: shape must be [N] for N images, not {_short(tensor.shape)}")
        files = tensor.read(f"input {spec.name}", BYTES, tensor.shape, tensor.data)
        return images.decode(f"input {spec.name}", spec, files.tolist())
    if tensor.datatype != spec.datatype:
        known = "" if tensor.datatype in DATATYPES else ", which is no KServe datatype"
        raise InvalidRequest(
            f"input {spec.name}: datatype must be {spec.datatype}, not {quoted(tensor.datatype)}{known}"
        )
    if not spec.accepts(tensor.shape):
        raise InvalidRequest(f"input {spec.name}: shape must be {spec.sizes}, not {_short(tensor.shape)}")
    return tensor.read(f"input {spec.name}", spec.datatype, tensor.shape, tensor.data)


def _is_image(tensor: InputTensor, spec: TensorSpec) -> bool:
    return tensor.datatype == BYTES != spec.datatype


def _resolve_threadsafe(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Answer], result: Answer | ServingError
) -> None:
    loop.call_soon_threadsafe(_resolve, future, result)


def _resolve(future: asyncio.Future[Answer], result: Answer | ServingError) -> None:
    if future.cancelled():  # the client went away; its infer request is free again nevertheless
        return
    if isinstance(result, ServingError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _positions(specs: Sequence[TensorSpec]) -> dict[str, int]:
    return {spec.name: position for position, spec in enumerate(specs)}


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _short(shape: Sequence[int]) -> str:
    return str(list(shape[:16])) if len(shape) <= 16 else f"{list(shape[:16])} and {len(shape) - 16} dimensions more"
