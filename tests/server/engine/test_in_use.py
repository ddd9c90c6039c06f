"""What the server shows of a compiled model is what OpenVINO uses, whatever it was asked for."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from loadproof_server.engine.in_use import PROPERTIES, properties_in_use
from loadproof_server.engine.requests import Engine
from tests.server.small_models import Serve


@pytest.mark.parametrize("device", ["CPU", "AUTO", "HETERO:CPU", "MULTI:CPU"])
def test_an_engine_says_what_its_devices_use(models: dict[str, Path], device: str) -> None:
    engine = Engine(models["free"] / "1" / "model.xml", device)
    assert tuple(engine.in_use) == PROPERTIES
    assert engine.in_use["EXECUTION_DEVICES"] == "CPU"
    assert engine.in_use["INFERENCE_PRECISION_HINT"] in ("f32", "bf16", "f16")
    assert int(engine.in_use["NUM_STREAMS"]) == engine.streams
    engine.close()


def test_a_precision_streams_and_threads_that_were_given_are_shown(models: dict[str, Path]) -> None:
    asked = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": 2}
    engine = Engine(models["free"] / "1" / "model.xml", properties=asked)
    assert {name: engine.in_use[name] for name in asked} == {name: str(value) for name, value in asked.items()}
    engine.close()


class FakeModel:
    def __init__(self, **properties: Any) -> None:
        self._properties = properties

    def get_property(self, name: str) -> Any:
        if name not in self._properties:
            raise RuntimeError(f"unknown {name}")
        return self._properties[name]


def test_of_several_devices_each_is_shown_and_what_none_says_is_left_out() -> None:
    devices = {"CPU": {"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 4}, "GPU.0": {"NUM_STREAMS": 1}}
    made = FakeModel(EXECUTION_DEVICES=["CPU", "GPU.0"], DEVICE_PROPERTIES=devices)
    assert properties_in_use(made) == {
        "EXECUTION_DEVICES": "CPU,GPU.0",
        "NUM_STREAMS": "CPU:2,GPU.0:1",
        "INFERENCE_NUM_THREADS": "4",
    }
    assert properties_in_use(FakeModel()) == {}


def test_clients_read_it_from_the_model_s_configuration(serve: Serve) -> None:
    server = serve("free", "--plugin_config", '{"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "2"}')
    with urllib.request.urlopen(f"http://{server.rest}/v2/models/free/config") as response:
        found = {name: value["string_value"] for name, value in json.load(response)["parameters"].items()}
    assert set(found) == set(PROPERTIES)
    assert (found["INFERENCE_PRECISION_HINT"], found["NUM_STREAMS"]) == ("f32", "2")
    client = triton.InferenceServerClient(server.grpc)
    parameters = client.get_model_config("free").config.parameters
    assert {name: parameters[name].string_value for name in parameters} == found
    client.close()
