from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from loadproof_server.engine.preparation import Preparation
from loadproof_server.errors import UsageError
from loadproof_server.repository import config_file
from loadproof_server.repository.settings import Configuration, ModelSettings
from loadproof_server.repository.versions import VersionPolicy


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def with_model(**keys: Any) -> dict[str, Any]:
    return {"model_config_list": [{"config": {"name": "m", "base_path": "/models/m", **keys}}]}


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        config_file.read(path)
    message = str(caught.value)
    assert message.startswith(f"--config_path: {path}: ")
    assert "\n" not in message
    return message.removeprefix(f"--config_path: {path}: ")


def test_the_schema_of_ovms_is_read(tmp_path: Path) -> None:
    content = with_model(
        nireq=4, target_device="HETERO:CPU", plugin_config={"NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": 1}
    )
    content["model_config_list"].append({"config": {"name": "n", "base_path": "models/n"}})
    content["monitoring"] = {"metrics": {"enable": True}}
    read = config_file.read(write(tmp_path, content))
    assert read == Configuration(
        (
            ModelSettings(
                *("m", Path("/models/m"), 4, "HETERO:CPU", {"NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": 1}),
                path_key="model m: base_path",
            ),
            ModelSettings("n", tmp_path / "models" / "n", 0, "CPU", {}, path_key="model n: base_path"),
        ),
        metrics_enable=True,
    )


def test_no_model_at_all_is_a_configuration(tmp_path: Path) -> None:
    assert config_file.read(write(tmp_path, {"model_config_list": []})) == Configuration(())


UNSERVED = ("mediapipe", "pipeline", "custom_node_library", "custom_loader")


def test_empty_lists_of_what_is_not_served_are_taken(tmp_path: Path) -> None:
    content = {**with_model(), **{f"{kind}_config_list": [] for kind in UNSERVED}}
    assert config_file.read(write(tmp_path, content)) == config_file.read(write(tmp_path, with_model()))


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, mark: str) -> None:
    path = write(tmp_path, mark + json.dumps(with_model(name="m\u00fc")))
    assert [model.name for model in config_file.read(path).models] == ["m\u00fc"]
    assert refusal(write(tmp_path, mark + "{")).startswith("broken JSON (EOF while parsing an object")
    if mark:
        assert refusal(write(tmp_path, 2 * mark + "{}")).startswith("broken JSON (expected value")


def test_versions_preparation_and_metrics_are_read(tmp_path: Path) -> None:
    content = with_model(
        model_version_policy={"specific": {"versions": [3, 1]}},
        shape={"a": "(1,3,2:8,-1)", "b": [4, 5]},
        batch_size=4,
        layout="NHWC:NCHW",
        mean=[1, 2.5, 3],
        scale="255",
        color_format="BGR:RGB",
        precision="uint8:fp32",
        plugin_config={"DEVICE_PROPERTIES": {"CPU": {"NUM_STREAMS": 2}}},
    )
    content["monitoring"] = {"metrics": {"enable": True, "metrics_list": ["ovms_streams", "ovms_infer_req_active"]}}
    read = config_file.read(write(tmp_path, content))
    (model,) = read.models
    assert model.version_policy == VersionPolicy(specific=(1, 3))
    assert model.plugin_config == {"DEVICE_PROPERTIES": {"CPU": {"NUM_STREAMS": 2}}}
    assert model.preparation == Preparation(
        shape={"a": ((1, 1), (3, 3), (2, 8), (0, -1)), "b": ((4, 4), (5, 5))},
        batch_size=(4, 4),
        layout={"": ("NHWC", "NCHW")},
        mean={"": (1, 2.5, 3)},
        scale={"": (255,)},
        color_format={"": ("BGR", "RGB")},
        precision={"": ("UINT8", "FP32")},
    )
    assert read.metrics_list == ("ovms_streams", "ovms_infer_req_active")


IN_MODEL = "model_config_list[0].config."


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"shape": "large"}, 'shape: must be "auto" or as (1,3,224,224)'),
        ({"shape": None}, 'shape: must be "auto" or a list of sizes'),
        ({"layout": 1}, "layout: must be as NHWC:NCHW"),
        ({"mean": {"x": "y"}}, "mean: x: must be a number or a list of them"),
        ({"model_version_policy": {"newest": {}}}, 'model_version_policy: must be {"latest": {"num_versions": 2}}'),
        ({"stateful": True}, "stateful: unknown or not supported here; remove it"),
        ({"name": "a/b"}, "name: must be a name without '/'"),
        ({"name": 1}, "name: Input should be a valid string"),
        ({"base_path": ""}, "base_path: must be the model's directory or file"),
        ({"base_path": "a\0b"}, "base_path: must be the model's directory or file"),
        ({"nireq": "4"}, "nireq: Input should be a valid integer"),
        ({"nireq": 2000}, "nireq: Input should be less than or equal to 1024"),
        ({"target_device": ""}, "target_device: String should have at least 1 character"),
        ({"plugin_config": "NUM_STREAMS"}, "plugin_config: must be a JSON object"),
        ({"plugin_config": {"A": [1]}}, "plugin_config: A: must be a string, a number, a boolean or an object"),
        ({"plugin_config": {"A": {"B": None}}}, "plugin_config: B: must be a string, a number, a boolean or an object"),
        ({"plugin_config": {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}}, "plugin_config: PERFORMANCE_HINT and"),
        ({"a\nb" * 99: 1}, "a b" * 33 + "a: unknown"),
    ],
)
def test_a_wrong_key_of_a_model_is_named(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    assert refusal(write(tmp_path, with_model(**keys))).startswith(IN_MODEL + message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "broken JSON (EOF while parsing a value at line 1 column 0); mend it"),
        ('{"model_config_list": [}', "broken JSON (expected value at line 1 column 24); mend it"),
        ("[" * 100_000, "broken JSON (recursion limit exceeded"),
        ("[]", "the file: Input should be an object"),
        ("{}", "model_config_list: missing; add it"),
        (
            {"model_config_list": [{"name": "m"}]},
            "model_config_list[0].config: missing; add it; model_config_list[0].n",
        ),
        ({"model_config_list": [{"config": {"name": "m"}}]}, "model_config_list[0].config.base_path: missing; add it"),
        (
            {**with_model(), "mediapipe_config_list": [{"name": "g"}]},
            "mediapipe_config_list: not supported here; empty or remove it",
        ),
        (
            {**with_model(), "pipeline_config_list": [{"name": "p"}], "custom_loader_config_list": {}},
            "pipeline_config_list: not supported here; empty or remove it; custom_loader_config_list: Input should be",
        ),
        ({**with_model(), "graph_config_list": []}, "graph_config_list: unknown or not supported here; remove it"),
        (
            {**with_model(), "monitoring": {"metrics": {"metrics_list": ["ovms_none"]}}},
            "monitoring.metrics.metrics_list: 'ovms_none' is no metric of OVMS; there are ovms_streams, ",
        ),
        (
            {**with_model(), "monitoring": {"metrics": {"metrics_list": "ovms_streams"}}},
            'monitoring.metrics.metrics_list: must be a list of names, as ["ovms_streams"]',
        ),
        (
            {**with_model(), "monitoring": {"metrics": {"enable": "yes"}}},
            "monitoring.metrics.enable: Input should be a",
        ),
        (
            {"model_config_list": with_model()["model_config_list"] * 2},
            "model_config_list: m is there twice; leave one of them",
        ),
        (" " * (config_file.MAX_CONFIG_BYTES + 1), f"is larger than {config_file.MAX_CONFIG_BYTES} bytes; shorten it"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    assert refusal(write(tmp_path, content)).startswith(message)


def test_all_mistakes_are_reported_at_once_up_to_ten(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, with_model(nireq=-1, layout=1)))
    assert IN_MODEL + "nireq: " in message and IN_MODEL + "layout: " in message
    many = {"model_config_list": [{"config": {"name": "m"}}] * 30}
    assert refusal(write(tmp_path, many)).count("base_path: missing") == 10
    assert refusal(write(tmp_path, many)).endswith("; and 20 more")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.json").startswith("cannot be read (No such file or directory); give")
    assert refusal(tmp_path).startswith("is no file; give the configuration file itself")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refusal(pipe).startswith("is no file")
