"""ResNet-50 v1: its parameters, its work, where it strides, and answers that a check can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from loadproof import models
from loadproof.models import resnet50
from loadproof_clients.payloads import making
from loadproof_clients.payloads.shapes import Input
from loadproof_clients.spec import Load
from loadproof_clients.tensors.tensor import to_array


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> models.Model:
    return models.get("resnet50", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def network(model: models.Model) -> Any:
    return openvino.Core().read_model(model.directory / "1" / "model.xml")


def of_type(network: Any, kind: str) -> list[Any]:
    return [node for node in network.get_ops() if node.get_type_name() == kind]


def test_the_file_holds_the_published_number_of_parameters_in_fp32(network: Any) -> None:
    floats = [node for node in of_type(network, "Constant") if node.get_element_type() == openvino.Type.f32]
    assert sum(node.data.size for node in floats) == 25_557_032


def test_inputs_and_outputs_are_the_classic_s(network: Any) -> None:
    (image,), (logits,) = network.inputs, network.outputs
    assert (image.any_name, str(image.partial_shape), image.element_type) == (
        "input",
        "[?,3,224,224]",
        openvino.Type.f32,
    )
    assert (logits.any_name, str(logits.partial_shape)) == ("logits", "[?,1000]")


def test_it_is_v1_the_first_1x1_of_a_stage_strides_and_no_3x3_does(network: Any) -> None:
    strided = [
        (tuple(node.input(1).get_shape()[2:]), node.input(1).get_shape()[0])
        for node in of_type(network, "Convolution")
        if list(node.get_attributes()["strides"]) == [2, 2]
    ]
    assert len(of_type(network, "Convolution")) == 53
    assert sorted(strided) == [
        *[((1, 1), channels) for channels in (128, 256, 512, 512, 1024, 2048)],
        ((7, 7), 64),
    ]


def test_it_does_the_3_8_thousand_million_multiply_adds_of_the_paper(network: Any) -> None:
    network = network.clone()
    network.reshape([1, 3, 224, 224])
    work = sum(
        int(np.prod(node.output(0).get_shape())) * int(np.prod(node.input(1).get_shape()[1:]))
        for node in of_type(network, "Convolution")
    )
    assert work + 2048 * 1000 == pytest.approx(3.858e9, rel=1e-3)


def test_answers_are_finite_and_different_inputs_are_told_apart_by_the_default_tolerance(
    model: models.Model, network: Any
) -> None:
    load = Load(payload=model.payload, shapes=model.shapes, ranges=model.ranges, payloads=2)
    payloads = making.make([Input("input", "FP32", (-1, 3, 224, 224))], load)
    images = [to_array(payload[0]).reshape(1, 3, 224, 224) for payload in payloads]
    compiled = openvino.Core().compile_model(network, "CPU")
    one, two = (compiled([image])[0] for image in images)
    assert np.isfinite(one).all()
    assert 1 < one.std() < 100
    assert (abs(one - two) > 5 * (load.atol + load.rtol * abs(one))).mean() > 0.5
    both = compiled([np.concatenate(images)])[0]
    assert np.allclose(both, np.concatenate([one, two]), rtol=1e-3, atol=1e-3)


def test_the_weights_are_the_same_every_time() -> None:
    first, again = (
        next(n.data for n in of_type(resnet50.build(), "Constant") if n.data.shape == (1000, 2048)) for _ in range(2)
    )
    assert np.array_equal(first, again)


def test_the_repository_names_what_it_is(model: models.Model) -> None:
    assert (model.name, model.licence) == ("resnet50", "Apache-2.0")
    assert model.directory.name == "resnet50"
    assert isinstance(model.directory, Path)
    assert model.source["seed"] == "50"
