"""Runs inferences on a pool of infer requests.

Each infer request belongs to one thread, which takes jobs from a common queue: so `nireq` inferences are in flight at
once, they wait in the order they came, and copies of outputs stay off the caller's thread. Threads that wait are used
rather than OpenVINO's Python callbacks, because a callback is not called when the inference fails (2026.4: the request
just ends, and only `wait` raises) and because they cost no more: 57-70 us against 79-84 us a request at 8 in flight,
tiny MLP on two cores. `start_async` and `wait` are used rather than `infer`, which picks its stream by the calling
thread: two callers could then share one while another is idle.
A model that takes less than `QUICK_US`, with fixed shapes, is run on the caller's own thread while nothing else is at
work (`quick`, `infer_inline`): handing a job to a thread and its answer back costs more than such an inference. What it
takes is the lower quartile of the recent ones: they are slower while they wait for the GIL or for a crowded machine's
cores, and a mean of them kept a model in the threads for good, at 200 us of CPU a request where 70 were enough; but a
single one, of a model that ends early for some inputs, must not put long ones on the caller's thread.
An input is wrapped, not copied: OpenVINO's tensor holds the array, and the array the request's bytes, until the next
inference; the constructor with a shape takes read-only memory (`shared_memory=True` does not). At 16 MiB in and out a
request took 3.2 ms, with a copy into the request's own tensor 4.4 ms; at 256 B there was no difference.
A model with a state (ReadValue and Assign) begins with its initial one in each request: the infer request that a client
happens to get would else answer from what other clients sent to it.
An output's shape is that of its numpy view: OpenVINO's own ends its iteration with a C++ exception, which took 11 us,
a tenth of a request of a null model.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openvino as ov

from loadproof_server.engine.compiling import compiled, one_line, streams_of
from loadproof_server.engine.in_use import properties_in_use
from loadproof_server.engine.metadata import specs
from loadproof_server.engine.preparation import AS_IT_IS, Preparation
from loadproof_server.engine.specs import ANY, Answer, OutputTensor
from loadproof_server.errors import InferenceFailed, InvalidRequest, ServingError, StartError
from loadproof_server.tensors import codec
from loadproof_server.tensors.datatypes import BYTES, Array

MAX_STRINGS_BYTES: Final = 1 << 28
QUICK_US: Final = 200.0
_RECENT: Final = 32  # inferences that show whether a model is quick


@dataclass(slots=True)
class Job:
    """One inference in the queue."""

    inputs: Sequence[Array] | None
    wanted: Sequence[int]
    done: Callable[[Answer | ServingError], None]
    submitted_ns: int

    def drop(self) -> None:
        """Its caller has gone: frees the inputs now, and skips the inference when its turn comes."""
        self.inputs = None


class Engine:
    """A compiled model and its infer requests."""

    def __init__(
        self,
        path: Path,
        device: str = "CPU",
        properties: dict[str, Any] | None = None,
        nireq: int = 0,
        preparation: Preparation = AS_IT_IS,
    ) -> None:
        """Loads the model; `nireq` 0 takes OpenVINO's optimal number. Raises StartError, in one line, if it cannot."""
        self.device = device
        made = compiled(path, device, properties or {}, preparation)
        self._compiled, self._has_state = made.model, made.has_state
        self.inputs = specs(made.model.inputs, made.names.inputs)
        self.outputs = specs(made.model.outputs, made.names.outputs)
        self.streams = streams_of(made.model)
        self.in_use = properties_in_use(made.model)
        try:
            self.nireq = nireq or int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            requests = [self._compiled.create_infer_request() for _ in range(self.nireq)]
        except RuntimeError as error:
            raise StartError(f"{path} does not load on {device}: {one_line(error)}") from None
        self._inline_request: Any = None  # the infer request of `infer_inline`, once there is need for one
        self._fixed = not any(spec.any_rank or ANY in spec.shape for spec in self.inputs)
        self._recent_us: deque[float] = deque(maxlen=_RECENT)  # of the inferences
        self._input_types = [port.get_element_type() for port in self._compiled.inputs]
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._busy: set[Any] = set()
        self._threads = [
            threading.Thread(target=self._work, args=(request,), name=f"infer-{number}", daemon=True)
            for number, request in enumerate(requests)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, inputs: Sequence[Array], wanted: Sequence[int], done: Callable[[Answer | ServingError], None]
    ) -> Job:
        """Queues one inference, which can be dropped; its answer or error is given to `done`, in another thread.

        `inputs` are the model's inputs in order, of the right datatype and shape; `wanted` the outputs' positions.
        """
        assert self.running, "a closed engine would never answer"
        job = Job(inputs, wanted, done, time.perf_counter_ns())
        self._jobs.put(job)
        return job

    def infer(self, inputs: Sequence[Array], wanted: Sequence[int]) -> Answer:
        """The same, blocking until the answer is there; raises the error."""
        answers: queue.SimpleQueue[Answer | ServingError] = queue.SimpleQueue()
        self.submit(inputs, wanted, answers.put)
        answer = answers.get()
        if isinstance(answer, ServingError):
            raise answer
        return answer

    @property
    def quick(self) -> bool:
        """Whether `infer_inline` takes less time than `submit`."""
        if self._busy or not self._jobs.empty() or not self._recent_us:
            return False
        recent_us = sorted(self._recent_us)
        return recent_us[len(recent_us) // 4] < QUICK_US

    def infer_inline(self, inputs: Sequence[Array], wanted: Sequence[int]) -> Answer:
        """The same on the caller's thread, which must always be the same one; raises the error."""
        if self._inline_request is None:
            self._inline_request = self._compiled.create_infer_request()
        answer = self._run(
            self._inline_request, Job(inputs, wanted, _ignore, time.perf_counter_ns()), inputs, inline=True
        )
        if isinstance(answer, ServingError):
            raise answer
        return answer

    @property
    def running(self) -> bool:
        """Until it is closed."""
        return self._compiled is not None

    @property
    def active(self) -> int:
        """Infer requests that are at work."""
        return len(self._busy)

    def close(self) -> None:
        """Ends the threads once what is queued is answered, and frees the model; nothing may be submitted after."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._compiled = self._inline_request = None

    def _work(self, request: Any) -> None:
        while (job := self._jobs.get()) is not None:
            if (inputs := job.inputs) is None:
                continue
            self._busy.add(request)
            answer = self._run(request, job, inputs)
            self._busy.discard(request)
            job.done(answer)
            del answer, job, inputs  # or its tensors would live until the next job

    def _run(self, request: Any, job: Job, inputs: Sequence[Array], *, inline: bool = False) -> Answer | ServingError:
        started_ns = time.perf_counter_ns()
        try:
            for position, array in enumerate(inputs):
                request.set_input_tensor(position, _wrap(array, self._input_types[position]))
            if self._has_state:
                request.reset_state()
            if inline:
                request.infer(share_outputs=True)
            else:
                request.start_async()
                request.wait()
            ended_ns = time.perf_counter_ns()
            outputs = [self._output(request, position) for position in job.wanted]
            if self._fixed:
                self._recent_us.append((time.perf_counter_ns() - started_ns) / 1e3)
        except InvalidRequest as error:
            return error
        except Exception as error:  # whatever it is, the thread and its infer request serve the next job
            return self._failure(error)
        return Answer(outputs, (started_ns - job.submitted_ns) / 1e3, (ended_ns - started_ns) / 1e3)

    def _output(self, request: Any, position: int) -> OutputTensor:
        tensor = request.get_output_tensor(position)
        spec = self.outputs[position]
        if spec.datatype != BYTES:
            values = tensor.data
            return OutputTensor(spec, values.shape, codec.to_raw(values))
        shape = tuple(tensor.shape)
        if 0 in shape:  # bytes_data of no strings reads memory that is not there (2026.4: the process may die)
            return OutputTensor(spec, shape, b"")
        return OutputTensor(spec, shape, codec.to_raw(tensor.bytes_data))

    def _failure(self, error: Exception) -> ServingError:
        """Where shapes are free, OpenVINO finds a shape that the graph cannot take only when it runs."""
        if any(ANY in spec.shape for spec in self.inputs):
            return InvalidRequest(f"the model cannot take these inputs: {one_line(error)}")
        return InferenceFailed(f"inference failed: {one_line(error)}")


def _ignore(_: Answer | ServingError) -> None:
    """`infer_inline` returns its answer."""


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
