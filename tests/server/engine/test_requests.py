from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from loadproof_server.dataplane.inputs import InputTensor
from loadproof_server.dataplane.metrics import ModelMetrics
from loadproof_server.dataplane.model import ServedModel
from loadproof_server.engine.compiling import with_defaults
from loadproof_server.engine.requests import Engine
from loadproof_server.engine.specs import Answer
from loadproof_server.errors import InvalidRequest, ServingError, StartError
from loadproof_server.tensors import codec, datatypes
from tests.server.small_models import KINDS, parameter, save


@contextmanager
def engine(path: Path, **options: Any) -> Iterator[Engine]:
    made = Engine(path / "1" / "model.xml", **options)
    yield made
    made.close()


def test_latency_is_the_default_hint_unless_streams_or_a_hint_are_given() -> None:
    assert with_defaults({"INFERENCE_NUM_THREADS": 1}) == {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    for given in ({"NUM_STREAMS": 2}, {"PERFORMANCE_HINT": "THROUGHPUT"}):
        assert with_defaults(given) == given


def test_without_nireq_openvino_chooses_the_number_of_infer_requests(models: dict[str, Path]) -> None:
    with engine(models["free"], properties={"NUM_STREAMS": 2}) as made:
        assert (made.nireq, made.streams) == (2, 2)


def test_metadata_has_kserve_datatypes_and_minus_1_for_free_dimensions(models: dict[str, Path]) -> None:
    with engine(models["free"]) as made:
        assert [(spec.name, spec.datatype, spec.shape) for spec in made.inputs] == [("x", "FP32", (-1, -1))]
        assert made.inputs[0].accepts([3, 5])
        assert not made.inputs[0].accepts([3])
        assert not made.inputs[0].accepts([-1, -1])
    with engine(models["kinds"]) as made:
        assert {spec.name: spec.datatype for spec in made.inputs} == {f"x_{kind}": kind for kind in datatypes.DATATYPES}


def test_as_many_inferences_are_in_flight_as_there_are_infer_requests(models: dict[str, Path]) -> None:
    """Each infer request is held until all three are answered: fewer of them could never meet at the barrier."""
    meeting = threading.Barrier(4)

    def meet(_: Answer | ServingError) -> None:
        meeting.wait(timeout=60)

    with engine(models["free"], nireq=3) as made:
        for _ in range(3):
            made.submit([np.ones((1, 4), np.float32)], [0], meet)
        meeting.wait(timeout=60)


def test_jobs_beyond_the_infer_requests_wait_and_the_wait_is_measured(models: dict[str, Path]) -> None:
    held, release = threading.Event(), threading.Event()
    waits: list[float] = []

    def hold(_: Answer | ServingError) -> None:
        held.set()
        release.wait(timeout=60)

    def note(answer: Answer | ServingError) -> None:
        assert isinstance(answer, Answer)
        waits.append(answer.wait_us)

    with engine(models["free"], nireq=1) as made:
        made.submit([np.ones((1, 4), np.float32)], [0], hold)
        assert held.wait(timeout=60)
        made.submit([np.ones((1, 4), np.float32)], [0], note)
        threading.Timer(0.2, release.set).start()
    assert len(waits) == 1
    assert waits[0] > 100_000


def test_an_inference_that_openvino_refuses_is_reported_and_the_next_one_works(models: dict[str, Path]) -> None:
    with engine(models["strict"], nireq=1) as made:
        with pytest.raises(InvalidRequest, match=r"^the model cannot take these inputs: .*reshape") as caught:
            made.infer([np.zeros((1, 63), np.float32)], [0])
        assert "\n" not in str(caught.value)
        assert made.infer([np.zeros((1, 64), np.float32)], [0]).outputs[0].shape == (2, 32)


def test_inputs_are_not_written_to(models: dict[str, Path]) -> None:
    values = -np.ones((4, 1024), np.float32)
    raw = values.tobytes()
    with engine(models["free"]) as made:
        answer = made.infer([codec.from_raw("x", "FP32", [4, 1024], raw)], [0])
    assert raw == values.tobytes()
    assert answer.outputs[0].raw == bytes(4 * 4096)


def test_an_output_is_a_copy_that_the_next_inference_leaves_alone(models: dict[str, Path]) -> None:
    with engine(models["free"], nireq=1) as made:
        first = made.infer([np.full((1, 4), 7, np.float32)], [0]).outputs[0].raw
        made.infer([np.full((1, 4), 8, np.float32)], [0])
    assert np.frombuffer(first, np.float32).tolist() == [7, 7, 7, 7]


def test_a_tensor_without_elements_is_answered(models: dict[str, Path]) -> None:
    with engine(models["free"]) as made:
        output = made.infer([codec.from_raw("x", "FP32", [0, 4], b"")], [0]).outputs[0]
    assert (output.shape, output.raw) == ((0, 4), b"")


def test_strings_without_one_are_answered(models: dict[str, Path]) -> None:
    with engine(models["words"]) as made:
        for raw, count in ((b"", 0), (bytes(8), 2)):  # none, and two of no length
            output = made.infer([codec.from_raw("x", "BYTES", [count], raw)], [0]).outputs[0]
            assert (output.shape, output.raw) == ((count,), raw)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "GPU"}, "does not load on GPU"), ({"properties": {"NO_SUCH": 1}}, "NO_SUCH")],
)
def test_what_openvino_does_not_have_is_one_line(
    models: dict[str, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(StartError, match=message) as caught:
        Engine(models["free"] / "1" / "model.xml", **options)
    assert "\n" not in str(caught.value)


def test_a_broken_model_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net")
    with pytest.raises(StartError, match=r"model\.xml does not load on CPU: "):
        Engine(tmp_path / "model.xml")


def test_a_string_that_would_lose_its_end_is_refused(models: dict[str, Path]) -> None:
    with engine(models["typed"]) as made:
        inputs = [codec.from_raw(spec.name, spec.datatype, (2, 3), KINDS[spec.datatype][1]) for spec in made.inputs]
        inputs[-1][0, 0] = b"a\0"
        with pytest.raises(InvalidRequest, match="a BYTES element ends with a NUL byte"):
            made.infer(inputs, [0])


def test_a_short_inference_of_fixed_shapes_runs_on_the_callers_thread_once_it_is_known(tmp_path: Path) -> None:
    x = parameter("x", ov.Type.f32, [1, 4])
    quick = save(tmp_path / "quick", [x], {"y": op.relu(x)})
    values = np.array([[-1, 2, -3, 4]], np.float32)
    with engine(quick, nireq=1) as made:
        assert not made.quick  # nobody knows yet
        deadline = time.monotonic() + 60
        while not made.quick:  # without a pause, which would slow the next one down
            made.infer([values], [0])
            assert time.monotonic() < deadline
        answer = made.infer_inline([values], [0])
        assert np.frombuffer(answer.outputs[0].raw, np.float32).tolist() == [0, 2, 0, 4]
        assert answer.outputs[0].raw == made.infer([values], [0]).outputs[0].raw


def test_a_few_short_inferences_among_long_ones_do_not_make_a_model_quick(tmp_path: Path) -> None:
    x = parameter("x", ov.Type.f32, [1, 4])
    with engine(save(tmp_path / "quick", [x], {"y": op.relu(x)}), nireq=1) as made:
        made._recent_us.extend([50.0] * 8 + [300_000.0] * 24)
        assert not made.quick
        made._recent_us.extend([50.0] * 24 + [300_000.0] * 8)
        assert made.quick


def test_a_model_of_free_shapes_never_does(models: dict[str, Path]) -> None:
    with engine(models["free"], nireq=1) as made:
        for _ in range(200):
            made.infer([np.ones((1, 4), np.float32)], [0])
        assert not made.quick


def test_an_inference_that_nobody_waits_for_any_more_is_not_made(models: dict[str, Path]) -> None:
    """Else streams that are opened and reset would fill the queue: HTTP/2's rapid reset."""
    values = np.zeros((1, 512), np.float32)
    done = threading.Event()
    answered: list[int] = []
    with engine(models["slow"], nireq=1) as made:
        made.submit([values], [0], lambda _: answered.append(0))
        dropped = [made.submit([values], [0], lambda _: answered.append(1)) for _ in range(100)]
        for job in dropped:
            job.drop()
        assert all(job.inputs is None for job in dropped)
        made.submit([values], [0], lambda _: done.set())
        assert done.wait(60)
    assert answered == [0]


def test_of_a_request_that_is_cancelled_in_the_queue_no_inference_is_made(models: dict[str, Path]) -> None:
    x = InputTensor("x", "FP32", [1, 512], bytes(2048), codec.from_raw)

    async def both(model: ServedModel) -> None:
        first, second = (asyncio.create_task(model.infer([x], [])) for _ in range(2))
        await asyncio.sleep(0.1)  # both are submitted
        second.cancel()
        await first

    with engine(models["slow"], nireq=1) as made:
        asyncio.run(both(ServedModel("slow", "1", made, ModelMetrics())))
    assert len(made._recent_us) == 1
