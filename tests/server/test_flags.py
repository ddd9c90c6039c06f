from __future__ import annotations

from pathlib import Path

import pytest

from loadproof_server.engine.preparation import Preparation
from loadproof_server.errors import UsageError
from loadproof_server.flags import parse
from loadproof_server.repository.settings import Configuration, ModelSettings
from loadproof_server.repository.versions import ALL_VERSIONS

GOOD = ["--model_name", "m", "--model_path", "models/m", "--port", "9000", "--rest_port", "8000"]


def test_the_defaults_are_loopback_and_what_openvino_thinks_best() -> None:
    chosen = parse(GOOD)
    assert (chosen.grpc_bind_address, chosen.rest_bind_address) == (("127.0.0.1",), ("127.0.0.1",))
    assert chosen.configuration() == Configuration((ModelSettings("m", Path("models/m"), 0, "CPU", {}),))
    assert (chosen.config_path, chosen.file_system_poll_wait_seconds) == (None, 1)
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
    assert parse([*GOOD, *flags]).metrics_enable is enabled


def test_a_directory_for_compiled_models_is_a_property_of_each() -> None:
    chosen = parse([*GOOD, "--cache_dir", "cache", "--plugin_config", '{"NUM_STREAMS": 2}'])
    assert [model.plugin_config for model in chosen.configuration().models] == [
        {"CACHE_DIR": "cache", "NUM_STREAMS": 2}
    ]


def test_the_flags_of_a_model_say_what_is_done_to_it() -> None:
    chosen = parse([*GOOD, "--shape", '{"x": "auto", "z": "(1,-1)"}', "--mean", "(1,2,3)", "--batch_size", "auto"])
    assert chosen.model is not None
    assert chosen.model.preparation == Preparation(
        shape={"x": None, "z": ((1, 1), (0, -1))}, mean={"": (1, 2, 3)}, batch_size=(0, -1)
    )
    chosen = parse([*GOOD, "--model_version_policy", '{"all": {}}'])
    assert chosen.model is not None
    assert chosen.model.version_policy == ALL_VERSIONS


def test_the_plugin_config_is_a_json_object() -> None:
    chosen = parse([*GOOD, "--plugin_config", '{"NUM_STREAMS": "2", "ENABLE_CPU_PINNING": false}'])
    assert chosen.model is not None
    assert chosen.model.plugin_config == {"NUM_STREAMS": "2", "ENABLE_CPU_PINNING": False}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "0", "--rest_port", "0"], "--port, --rest_port: give at least one"),
        (["--port", "8000"], "--rest_port: 8000 is --port as well"),
        (["--port", "70000"], "--port: '70000' is no whole number from 0 to 65535"),
        (["--rest_port", "0", "--metrics_enable"], "--metrics_enable: /metrics is served on the REST port"),
        (["--metrics_enable", "yes"], "--metrics_enable: 'yes' is neither true nor false"),
        (["--nireq", "-1"], "--nireq: '-1' is no whole number"),
        (["--grpc_bind_address", "nowhere"], "--grpc_bind_address: 'nowhere' is no IP address, and no host name"),
        (["--rest_bind_address", "127.0.0.1,"], "--rest_bind_address: '' is no IP address, and no host name"),
        (["--rest_port", "9000", "--rest_bind_address", "::1,127.0.0.1"], "--rest_port: 9000 is --port as well"),
        (["--plugin_config", "{"], "--plugin_config: broken JSON"),
        (["--plugin_config", "[]"], "--plugin_config: must be a JSON object"),
        (["--plugin_config", '{"A": []}'], "--plugin_config: A: must be a string"),
        (["--model_version_policy", "all"], "--model_version_policy: broken JSON"),
        (
            ["--model_version_policy", '{"latest": 2}'],
            '--model_version_policy: must be {"latest": {"num_versions": 2}}',
        ),
        (["--shape", "{"], "--shape: broken JSON"),
        (["--shape", "(1,a)"], "--shape: 'a' is no size: give a whole number"),
        (["--shape", "(1:9999999999,4)"], "--shape: 1:9999999999 is out of bounds: a size is at most 999999999"),
        (["--shape", '{"x": "(4,8:2)"}'], "--shape: x: 8:2 begins above its end"),
        (["--batch_size", "8:1"], "--batch_size: 8:1 begins above its end"),
        (["--layout", "nhwc"], "--layout: must be as NHWC:NCHW"),
        (["--mean", "[1,nan]"], "--mean: must be a number or a list of them"),
        (["--scale", "[1,0,1]"], "--scale: must not be 0"),
        (["--color_format", "RGB"], "--color_format: must be BGR:RGB or RGB:BGR"),
        (["--precision", "UINT8"], "--precision: must be as UINT8:FP32"),
        (["--metrics_list", "ovms_streams"], "--metrics_list: no metrics are served without --metrics_enable"),
        (["--metrics_enable", "--metrics_list", "ovms_streams,x"], "--metrics_list: 'x' is no metric of OVMS"),
        (["--plugin_config", '{"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}'], "exclude each other"),
        (["--log_level", "LOUD"], "--log_level: invalid choice: 'LOUD'"),
        (["--model_name", "a/b"], "--model_name: must be a name without '/'"),
        (["--config_path", "c"], "--model_name: excluded by --config_path; write it into that file"),
        (["--file_system_poll_wait_seconds", "0.5"], "--file_system_poll_wait_seconds: '0.5' is no whole number"),
        (["--stateful", "true"], "unrecognized arguments: --stateful true"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse([*GOOD, *flags])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--model_name: missing; give --model_name and --model_path, or --config_path"),
        (["--model_name", "m"], "--model_path: missing; give"),
        (["--config_path", "c", "--nireq", "2"], "--nireq: excluded by --config_path"),
        (["--config_path", "c", "--target_device", "AUTO"], "--target_device: excluded by --config_path"),
        (["--config_path", "c", "--shape", "auto"], "--shape: excluded by --config_path"),
        (["--config_path", "c", "--model_version_policy", '{"all": {}}'], "--model_version_policy: excluded by"),
        (["--config_path", "c", "--plugin_config", '{"NUM_STREAMS": 1}'], "--plugin_config: excluded by --config_path"),
    ],
)
def test_there_is_either_one_model_or_a_configuration_file(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(["--port", "9000", *flags])
    assert message in str(caught.value)


def test_workers_are_as_many_as_the_protocol_with_more_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert parse(GOOD).workers == 1
    assert parse([*GOOD, "--grpc_workers", "3", "--rest_workers", "8"]).workers == 8
    assert parse([*GOOD, "--grpc_workers", "2"]).workers == 2
    for number in ("0", "10001", "two"):
        with pytest.raises(UsageError, match=f"--rest_workers: '{number}' is no whole number from 1 to 10000"):
            parse([*GOOD, "--rest_workers", number])
    for flag, port in (("--grpc_workers", "--port"), ("--rest_workers", "--rest_port")):
        other = [*GOOD[:4], *(GOOD[4:6] if port == "--rest_port" else GOOD[6:])]
        with pytest.raises(UsageError, match=f"{flag}: 2 processes serve nothing without {port}; give it as well"):
            parse([*other, flag, "2"])


def test_more_workers_than_cpus_are_one_for_each_cpu_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    chosen = parse([*GOOD, "--rest_workers", "24", "--grpc_workers", "4"])
    assert (chosen.rest_workers, chosen.grpc_workers, chosen.workers) == (4, 4, 4)
    assert chosen.warnings == ("--rest_workers: 24 are more than there are CPUs; 4 are started",)
    assert len(parse([*GOOD, "--rest_workers", "5", "--grpc_workers", "6"]).warnings) == 2
    assert parse([*GOOD, "--rest_workers", "2"]).warnings == ()


def test_bind_addresses_may_be_several_and_host_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        assert name == "server.lan"
        return [(0, 0, 0, "", (address, 0)) for address in ("192.0.2.7", "192.0.2.7", "fe80::1%eth0", "2001:db8::7")]

    monkeypatch.setattr("socket.getaddrinfo", find)
    for text, expected in (
        ("127.0.0.1,::1", ("127.0.0.1", "::1")),
        (" 0.0.0.0 , [::] ", ("0.0.0.0", "::")),
        ("localhost,127.0.0.1", ("127.0.0.1",)),
        ("server.lan,127.0.0.1", ("192.0.2.7", "2001:db8::7", "127.0.0.1")),
    ):
        assert parse([*GOOD, "--rest_bind_address", text]).rest_bind_address == expected
        assert parse([*GOOD, "--grpc_bind_address", text]).grpc_bind_address == expected
