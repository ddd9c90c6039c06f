"""OVMS's surface as clients of both protocols see it: versions, prepared models, images, and what /metrics shows."""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf import json_format
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.server.small_models import Serve, Server

PIXELS = np.random.default_rng(1).integers(0, 30, (4, 5, 3), np.uint8)
ALL = ("ovms_requests_success", "ovms_requests_fail", "ovms_infer_req_queue_size", "ovms_infer_req_active")


@pytest.fixture(scope="module")
def photo(serve: Serve) -> Server:
    flags = ["--model_version_policy", '{"all": {}}', "--layout", "NHWC:NCHW", "--precision", "UINT8:FP32"]
    flags += ["--batch_size", "auto", "--nireq", "3", "--metrics_list", ",".join(ALL)]
    return serve("photo", *flags)


@pytest.fixture(params=["gRPC", "REST"])
def client(request: pytest.FixtureRequest, photo: Server) -> Any:
    made: Any = (
        triton_grpc.InferenceServerClient(photo.grpc)
        if request.param == "gRPC"
        else triton_http.InferenceServerClient(photo.rest)
    )
    made.infer_input = triton_grpc.InferInput if request.param == "gRPC" else triton_http.InferInput
    yield made
    made.close()


def infer(client: Any, pixels: np.ndarray[Any, Any], version: str = "") -> Any:
    tensor = client.infer_input("x", pixels.shape, "UINT8" if pixels.dtype == np.uint8 else "BYTES")
    tensor.set_data_from_numpy(pixels)
    return client.infer("photo", [tensor], model_version=version)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def planes(pixels: np.ndarray[Any, Any], factor: int) -> Any:
    return (pixels[None].transpose(0, 3, 1, 2) * float(factor)).tolist()


def test_every_version_answers_under_its_number_and_the_latest_without(client: Any) -> None:
    for version, factor in (("", 7), ("1", 1), ("2", 2), ("7", 7)):
        result = infer(client, PIXELS[None], version)
        assert result.as_numpy("y").tolist() == planes(PIXELS, factor)
        response = result.get_response()
        answered = response["model_version"] if isinstance(response, dict) else response.model_version
        assert answered == str(factor)
        assert client.is_model_ready("photo", version)


def test_metadata_names_all_versions_and_the_prepared_input(client: Any) -> None:
    found = client.get_model_metadata("photo", "2")
    if not isinstance(found, dict):  # gRPC
        found = json_format.MessageToDict(found)
    assert found["versions"] == ["1", "2", "7"]
    assert (found["inputs"][0]["datatype"], list(map(int, found["inputs"][0]["shape"]))) == ("UINT8", [-1, 4, 5, 3])


def test_a_version_that_is_not_there_is_not_found(client: Any) -> None:
    asks: list[Callable[[], Any]] = [
        lambda: infer(client, PIXELS[None], "3"),
        lambda: client.get_model_metadata("photo", "3"),
    ]
    for ask in asks:
        with pytest.raises(InferenceServerException, match="version '3' of model photo: unknown; this server has 1, 2"):
            ask()


def test_images_are_decoded_and_resized_beside_tensors_of_their_pixels(client: Any) -> None:
    large = PIXELS.repeat(2, axis=0).repeat(2, axis=1)
    files = np.array([png(PIXELS), png(large)], object)
    found = infer(client, files, "1").as_numpy("y")
    bgr = PIXELS[..., ::-1]
    assert found[:1].tolist() == planes(bgr, 1)
    assert np.abs(found[1] - found[0]).max() <= 30
    assert infer(client, bgr[None].repeat(3, axis=0), "1").as_numpy("y").shape == (3, 3, 4, 5)


def test_what_is_no_image_is_refused(client: Any) -> None:
    for files, message in (
        (np.array([b"no image"], object), "input x: image 0 is neither JPEG nor PNG"),
        (np.array([[png(PIXELS)]], object), r"input x: shape must be \[N\] for N images, not \[1, 1\]"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            infer(client, files)


def test_the_listed_metrics_are_shown_and_lookups_counted(photo: Server, client: Any) -> None:
    interface = "gRPC" if isinstance(client, triton_grpc.InferenceServerClient) else "REST"
    labels = {"interface": interface, "name": "photo"}

    def count(end: str, **more: str) -> float:
        return photo.metric(f"ovms_requests_{end}", **labels, **more)

    before = count("success", method="ModelMetadata", version="2"), count("success", method="ModelReady")
    failed = photo.metric("ovms_requests_fail", interface=interface, method="ModelMetadata", name="")
    client.get_model_metadata("photo", "2")
    client.is_model_ready("photo")
    with pytest.raises(InferenceServerException):
        client.get_model_metadata("none")
    after = count("success", method="ModelMetadata", version="2"), count("success", method="ModelReady")
    assert after == (before[0] + 1, before[1] + 1)
    assert photo.metric("ovms_requests_fail", interface=interface, method="ModelMetadata", name="") == failed + 1
    assert photo.metric("ovms_infer_req_queue_size", version="1") == 3
    assert photo.metric("ovms_infer_req_active") == 0
    connection = http.client.HTTPConnection(photo.rest)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} == set(ALL)
