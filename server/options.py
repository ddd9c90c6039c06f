"""The command line of OpenVINO Model Server, as far as it is served here, and what is wrong with it in one line."""

from __future__ import annotations

import argparse
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from server import config
from server.config import Configuration, ModelSettings
from server.errors import UsageError

LOG_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")
POLL_MAX_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Options:
    """What the flags say: one model or a configuration file, and a port of 0 turns its protocol off."""

    model: ModelSettings | None
    config_path: Path | None
    file_system_poll_wait_seconds: int
    port: int
    rest_port: int
    grpc_bind_address: str
    rest_bind_address: str
    metrics_enable: bool
    log_level: str

    def configuration(self) -> Configuration:
        """The models to serve, read anew from the configuration file where there is one; raises UsageError."""
        if self.config_path is not None:
            return config.read(self.config_path)
        return Configuration((self.model,) if self.model else ())


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a UsageError of one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def parse(arguments: list[str] | None = None) -> Options:
    """The options; raises UsageError with one line."""
    parser = Parser(prog="loadproof-server", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config_path", type=Path, help="OVMS's configuration file; excludes the flags of one model")
    parser.add_argument("--model_name", help="name under which the model is served")
    add_model_flags(parser)
    parser.add_argument("--nireq", type=_nireq, default=0, help="infer requests; 0 (the default): OpenVINO's optimum")
    parser.add_argument(
        "--file_system_poll_wait_seconds",
        type=_poll,
        default=1,
        help="how often configuration and model directories are looked at; default 1, 0: only when asked to reload",
    )
    parser.add_argument("--port", type=_port, default=0, help="gRPC port; 0 (the default): no gRPC")
    parser.add_argument("--rest_port", type=_port, default=0, help="REST port; 0 (the default): no REST")
    parser.add_argument("--grpc_bind_address", type=_address, default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument("--rest_bind_address", type=_address, default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument(
        "--metrics_enable", type=_flag, nargs="?", const=True, default=False, help="/metrics on the REST port"
    )
    parser.add_argument("--log_level", type=str.upper, choices=LOG_LEVELS, default="INFO")
    flags = vars(parser.parse_args(arguments))
    options = Options(model=_model(parser, flags), **flags)
    if not options.port and not options.rest_port:
        parser.error("--port, --rest_port: give at least one of them, or no protocol is served")
    if options.port == options.rest_port and options.grpc_bind_address == options.rest_bind_address:
        parser.error(f"--rest_port: {options.rest_port} is --port as well; give each protocol its own")
    if options.metrics_enable and not options.rest_port:
        parser.error("--metrics_enable: /metrics is served on the REST port; give --rest_port")
    return options


def _model(parser: Parser, flags: dict[str, Any]) -> ModelSettings | None:
    """Takes the flags of one model out of `flags`; none of them may stand beside --config_path."""
    names = ("model_name", "model_path", "nireq", "target_device", "plugin_config")
    given = {name: flags.pop(name) for name in names}
    if flags["config_path"] is not None:
        for name, value in given.items():
            if value != parser.get_default(name):
                parser.error(f"--{name}: excluded by --config_path; write it into that file")
        return None
    for name in ("model_name", "model_path"):
        if given[name] is None:
            parser.error(f"--{name}: missing; give --model_name and --model_path, or --config_path")
    try:
        config.check_name(given["model_name"])
    except ValueError as error:
        parser.error(f"--model_name: {error}")
    return ModelSettings(given.pop("model_name"), given.pop("model_path"), **given)


def add_model_flags(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The flags that say what is inferred, and how: the server's and the reference's."""
    parser.add_argument(
        "--model_path", type=Path, required=required, help="model directory with versions, or a model file"
    )
    parser.add_argument("--target_device", default="CPU", help="OpenVINO device, default CPU")
    parser.add_argument("--plugin_config", type=_plugin_config, default={}, help="OpenVINO properties as a JSON object")


def _port(text: str) -> int:
    return _whole_number(text, 0, 65535)


def _nireq(text: str) -> int:
    return _whole_number(text, 0, config.NIREQ_MAX)


def _poll(text: str) -> int:
    return _whole_number(text, 0, POLL_MAX_S)


def _whole_number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address("127.0.0.1" if text == "localhost" else text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address") from None


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _plugin_config(text: str) -> dict[str, Any]:
    try:
        properties = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"broken JSON: {error}") from None
    try:
        return config.check_plugin_config(properties)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
