"""Tensors without elements: a graph without edges, a text without boxes. Each way to send them has the same answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.server.small_models import Serve, Server

ONE = np.full((1, 4), 2, np.float32)
WAYS = ["gRPC", "HTTP JSON", "HTTP binary", "HTTP binary in, JSON out"]


@pytest.fixture(scope="module")
def mixed(serve: Serve) -> Server:
    return serve("mixed")


@pytest.fixture(params=WAYS)
def infer(request: pytest.FixtureRequest, mixed: Server) -> Any:
    way = request.param
    module: Any = triton_grpc if way == "gRPC" else triton_http
    client = module.InferenceServerClient(mixed.grpc if way == "gRPC" else mixed.rest)
    sent = {"binary_data": False} if way == "HTTP JSON" else {}
    wanted = {"binary_data": way == "HTTP binary"} if way != "gRPC" else {}

    def ask(**arrays: Any) -> dict[str, Any]:
        inputs = []
        for name, array in arrays.items():
            tensor = module.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else "FP32")
            tensor.set_data_from_numpy(array, **sent)
            inputs.append(tensor)
        outputs = [module.InferRequestedOutput(name, **wanted) for name in ("y", "z", "none", "words")]
        result = client.infer("mixed", inputs, outputs=outputs)
        return {name: result.as_numpy(name) for name in ("y", "z", "none", "words")}

    yield ask
    client.close()


def floats(rows: int) -> Any:
    return np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)


def words(*elements: bytes) -> Any:
    return np.array(elements, object)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (floats(0), words()),
        (floats(0), words(b"a", b"")),
        (floats(2), words()),
        (floats(2), words(b"ab")),
        (floats(1), words(b"")),
    ],
    ids=["both", "numbers alone", "strings alone", "neither", "a string of no bytes"],
)
def test_inputs_and_outputs_without_elements_are_answered(infer: Any, x: Any, text: Any) -> None:
    for given in ({"x": x, "one": ONE, "text": text}, {"text": text, "x": x, "one": ONE}):  # the first or the last one
        found = infer(**given)
        np.testing.assert_array_equal(found["y"], x)
        np.testing.assert_array_equal(found["z"], x + ONE)
        assert found["z"].shape == x.shape
        assert found["none"].shape == (0, 4)
        assert [element if isinstance(element, bytes) else element.encode() for element in found["words"]] == [*text]


def test_an_empty_binary_input_beside_another_size_is_refused(mixed: Server) -> None:
    client = triton_http.InferenceServerClient(mixed.rest)
    tensors = []
    for name, array in (("x", floats(0)), ("one", ONE), ("text", words())):
        tensors.append(triton_http.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else "FP32"))
        tensors[-1].set_data_from_numpy(array)
    tensors[0].set_shape([1, 4])
    with pytest.raises(triton_http.InferenceServerException, match=r"input x: 0 bytes for FP32 of shape \[1, 4\]"):
        client.infer("mixed", tensors)
    client.close()
