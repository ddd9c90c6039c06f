"""The one module that knows OpenVINO: compiles a model and runs inferences on a pool of infer requests.

Each infer request belongs to one thread, which takes jobs from a common queue: so `nireq` inferences are in flight at
once, they wait in the order they came, and copies of outputs stay off the caller's thread. Threads that wait rather
than OpenVINO's Python callbacks, because a callback is not called when the inference fails (2026.4: the request just
ends, and only `wait` tells) and because they cost no more: 57-70 us against 79-84 us a request at 8 in flight, tiny MLP
on two cores. `start_async` and `wait` rather than `infer`, which picks its stream by the calling thread: two callers
could then share one while another is idle.
An input is wrapped, not copied: OpenVINO's tensor holds the array, and the array the request's bytes, until the next
inference; the constructor with a shape takes read-only memory (`shared_memory=True` does not). At 16 MiB in and out a
request took 3.2 ms, with a copy into the request's own tensor 4.4 ms; at 256 B there was no difference.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openvino as ov

from server import tensors
from server.errors import InferenceFailed, InvalidRequest, ServingError, StartError
from server.tensors import BYTES, Array

# OpenVINO's type names to KServe's datatypes: every datatype of KServe.
KSERVE: Final = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "bf16": "BF16",
    "f32": "FP32",
    "f64": "FP64",
    "string": BYTES,
}
ANY: Final = -1  # a dimension without bounds
MAX_STRINGS_BYTES: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the model; `shape` has -1 where a dimension is dynamic, and `limits` its (low, high)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    limits: tuple[tuple[int, int], ...]
    any_rank: bool = False

    def accepts(self, shape: Sequence[int]) -> bool:
        if tuple(shape) == self.shape:
            return ANY not in shape
        if self.any_rank:
            return all(size >= 0 for size in shape)
        return len(shape) == len(self.limits) and all(
            low <= size and (high == ANY or size <= high) for size, (low, high) in zip(shape, self.limits, strict=True)
        )


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output of one inference, as raw bytes of its own."""

    spec: TensorSpec
    shape: tuple[int, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    outputs: list[OutputTensor]
    wait_us: float  # from submit until an infer request was free
    inference_us: float  # start to end, as the server sees it


@dataclass(frozen=True, slots=True)
class _Job:
    inputs: Sequence[Array]
    wanted: Sequence[int]
    done: Callable[[Answer | ServingError], None]
    submitted_ns: int


class Engine:
    """A compiled model and its infer requests."""

    def __init__(
        self, path: Path, device: str = "CPU", properties: dict[str, Any] | None = None, nireq: int = 0
    ) -> None:
        """Loads the model; `nireq` 0 takes OpenVINO's optimal number. Raises StartError, in one line, if it cannot."""
        self.device = device
        try:
            core = ov.Core()
            model = core.read_model(path)
            self._compiled = core.compile_model(model, device, with_defaults(properties or {}))
            self.nireq = nireq or int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            requests = [self._compiled.create_infer_request() for _ in range(self.nireq)]
        except (RuntimeError, TypeError) as error:
            raise StartError(f"{path} does not load on {device}: {_one_line(error)}") from None
        self.inputs = _specs(self._compiled.inputs)
        self.outputs = _specs(self._compiled.outputs)
        self.streams = self._streams()
        self._input_types = [port.get_element_type() for port in self._compiled.inputs]
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(request,), name=f"infer-{number}", daemon=True)
            for number, request in enumerate(requests)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, inputs: Sequence[Array], wanted: Sequence[int], done: Callable[[Answer | ServingError], None]
    ) -> None:
        """Queues one inference; `done` is called in the infer request's thread with the answer or the error.

        `inputs` are the model's inputs in order, of the right datatype and shape; `wanted` the outputs' positions.
        """
        assert self.running, "a closed engine would never answer"
        self._jobs.put(_Job(inputs, wanted, done, time.perf_counter_ns()))

    def infer(self, inputs: Sequence[Array], wanted: Sequence[int]) -> Answer:
        """The same, blocking until the answer is there; raises the error."""
        answers: queue.SimpleQueue[Answer | ServingError] = queue.SimpleQueue()
        self.submit(inputs, wanted, answers.put)
        answer = answers.get()
        if isinstance(answer, ServingError):
            raise answer
        return answer

    @property
    def running(self) -> bool:
        """Until it is closed."""
        return self._compiled is not None

    def close(self) -> None:
        """Ends the threads once what is queued is answered, and frees the model; nothing may be submitted after."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._compiled = None

    def _work(self, request: Any) -> None:
        while (job := self._jobs.get()) is not None:
            job.done(self._run(request, job))
            del job  # or its tensors would live until the next job

    def _run(self, request: Any, job: _Job) -> Answer | ServingError:
        started_ns = time.perf_counter_ns()
        try:
            for position, array in enumerate(job.inputs):
                request.set_input_tensor(position, _wrap(array, self._input_types[position]))
            request.start_async()
            request.wait()
            ended_ns = time.perf_counter_ns()
            outputs = [self._output(request, position) for position in job.wanted]
        except InvalidRequest as error:
            return error
        except Exception as error:  # whatever it is, the thread and its infer request serve the next job
            return self._failure(error)
        return Answer(outputs, (started_ns - job.submitted_ns) / 1e3, (ended_ns - started_ns) / 1e3)

    def _output(self, request: Any, position: int) -> OutputTensor:
        tensor = request.get_output_tensor(position)
        spec = self.outputs[position]
        shape = tuple(tensor.shape)
        if 0 in shape:  # bytes_data of no strings reads memory that is not there (2026.4: the process may die)
            return OutputTensor(spec, shape, b"")
        return OutputTensor(spec, shape, tensors.to_raw(tensor.bytes_data if spec.datatype == BYTES else tensor.data))

    def _failure(self, error: Exception) -> ServingError:
        """Where shapes are free, OpenVINO finds a shape that the graph cannot take only when it runs."""
        if any(ANY in spec.shape for spec in self.inputs):
            return InvalidRequest(f"the model cannot take these inputs: {_one_line(error)}")
        return InferenceFailed(f"inference failed: {_one_line(error)}")

    def _streams(self) -> int:
        """NUM_STREAMS, or 1 on devices that have no such property (HETERO)."""
        try:
            return int(self._compiled.get_property("NUM_STREAMS"))
        except RuntimeError:
            return 1


def with_defaults(properties: dict[str, Any]) -> dict[str, Any]:
    """OVMS's default: PERFORMANCE_HINT=LATENCY unless a hint or the number of streams is given."""
    if "PERFORMANCE_HINT" in properties or "NUM_STREAMS" in properties:
        return properties
    return {**properties, "PERFORMANCE_HINT": "LATENCY"}


def _wrap(array: Array, element_type: Any) -> Any:
    """OpenVINO's tensor over the array; strings are copied by way of numpy's fixed width, which drops final NULs."""
    if array.dtype.kind != "O":
        return ov.Tensor(array, array.shape, element_type)
    if any(element.endswith(b"\0") for element in array.flat):
        raise InvalidRequest("a BYTES element ends with a NUL byte, which OpenVINO's Python interface cannot carry")
    if array.size * max(map(len, array.flat), default=0) > MAX_STRINGS_BYTES:
        raise InvalidRequest(
            f"BYTES elements padded to the longest exceed {MAX_STRINGS_BYTES} bytes; send fewer at once"
        )
    return ov.Tensor(array.astype("S"))


def _specs(ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(port, _name(port)) for port in ports)


def _name(port: Any) -> str:
    """The port's tensor name; OpenVINO's own models may leave it out, then the node's."""
    names = port.get_names()
    return str(port.get_any_name() if names else port.get_node().get_friendly_name())


def _spec(port: Any, name: str) -> TensorSpec:
    element_type = port.get_element_type().get_type_name()
    if element_type not in KSERVE:
        raise StartError(f"tensor {name} has the type {element_type}, which KServe does not know")
    partial = port.get_partial_shape()
    if partial.rank.is_dynamic:
        return TensorSpec(name, KSERVE[element_type], (ANY,), (), any_rank=True)
    limits = tuple((dimension.get_min_length(), dimension.get_max_length()) for dimension in partial)
    shape = tuple(low if low == high else ANY for low, high in limits)
    return TensorSpec(name, KSERVE[element_type], shape, limits)


def _one_line(error: Exception) -> str:
    """OpenVINO's message without the places in its source where it was thrown; 500 characters at most."""
    text = re.sub(r"(Caught exception: )?Exception from \S+:\d+:", "", str(error))
    return " ".join(text.split())[:500] or type(error).__name__


def version() -> str:
    """OpenVINO's version, as the server's metadata tells it."""
    return str(ov.__version__)
