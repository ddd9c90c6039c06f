from __future__ import annotations

import pytest

from server import options
from server.errors import UsageError

GOOD = ["--model_name", "m", "--model_path", "models/m", "--port", "9000", "--rest_port", "8000"]


def test_the_defaults_are_loopback_and_what_openvino_thinks_best() -> None:
    chosen = options.parse(GOOD)
    assert (chosen.grpc_bind_address, chosen.rest_bind_address) == ("127.0.0.1", "127.0.0.1")
    assert (chosen.nireq, chosen.target_device, chosen.plugin_config) == (0, "CPU", {})
    assert (chosen.metrics_enable, chosen.log_level) == (False, "INFO")


@pytest.mark.parametrize(
    ("flags", "enabled"),
    [
        ([], False),
        (["--metrics_enable"], True),
        (["--metrics_enable", "true"], True),
        (["--metrics_enable=false"], False),
    ],
)
def test_metrics_are_enabled_by_the_flag_alone_or_with_a_value(flags: list[str], enabled: bool) -> None:
    assert options.parse([*GOOD, *flags]).metrics_enable is enabled


def test_the_plugin_config_is_a_json_object() -> None:
    chosen = options.parse([*GOOD, "--plugin_config", '{"NUM_STREAMS": "2", "ENABLE_CPU_PINNING": false}'])
    assert chosen.plugin_config == {"NUM_STREAMS": "2", "ENABLE_CPU_PINNING": False}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "0", "--rest_port", "0"], "--port, --rest_port: give at least one"),
        (["--port", "8000"], "--rest_port: 8000 is --port as well"),
        (["--port", "70000"], "--port: '70000' is no whole number from 0 to 65535"),
        (["--rest_port", "0", "--metrics_enable"], "--metrics_enable: /metrics is served on the REST port"),
        (["--metrics_enable", "yes"], "--metrics_enable: 'yes' is neither true nor false"),
        (["--nireq", "-1"], "--nireq: '-1' is no whole number"),
        (["--grpc_bind_address", "nowhere"], "--grpc_bind_address: 'nowhere' is no IP address"),
        (["--plugin_config", "{"], "--plugin_config: broken JSON"),
        (["--plugin_config", "[]"], "--plugin_config: must be a JSON object"),
        (["--plugin_config", '{"A": []}'], "--plugin_config: A: must be a string"),
        (["--plugin_config", '{"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}'], "exclude each other"),
        (["--log_level", "LOUD"], "--log_level: invalid choice: 'LOUD'"),
        (["--model_name", "a/b"], "--model_name: must be a name without '/'"),
        (["--shape", "auto"], "unrecognized arguments: --shape auto"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        options.parse([*GOOD, *flags])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
