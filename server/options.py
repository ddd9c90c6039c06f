"""The command line of OpenVINO Model Server, as far as it is served here, and what is wrong with it in one line."""

from __future__ import annotations

import argparse
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from server.errors import UsageError

LOG_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")
NIREQ_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """What the flags say; a port of 0 turns its protocol off, an nireq of 0 leaves the number to OpenVINO."""

    model_name: str
    model_path: Path
    port: int
    rest_port: int
    grpc_bind_address: str
    rest_bind_address: str
    nireq: int
    target_device: str
    plugin_config: dict[str, Any]
    metrics_enable: bool
    log_level: str


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a UsageError of one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def parse(arguments: list[str] | None = None) -> Options:
    """The options; raises UsageError with one line."""
    parser = Parser(prog="loadproof-server", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model_name", required=True, help="name under which the model is served")
    add_model_flags(parser)
    parser.add_argument("--port", type=_port, default=0, help="gRPC port; 0 (the default): no gRPC")
    parser.add_argument("--rest_port", type=_port, default=0, help="REST port; 0 (the default): no REST")
    parser.add_argument("--grpc_bind_address", type=_address, default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument("--rest_bind_address", type=_address, default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument("--nireq", type=_nireq, default=0, help="infer requests; 0 (the default): OpenVINO's optimum")
    parser.add_argument(
        "--metrics_enable", type=_flag, nargs="?", const=True, default=False, help="/metrics on the REST port"
    )
    parser.add_argument("--log_level", type=str.upper, choices=LOG_LEVELS, default="INFO")
    options = Options(**vars(parser.parse_args(arguments)))
    if not options.model_name or "/" in options.model_name:
        parser.error("--model_name: must be a name without '/'")
    if not options.port and not options.rest_port:
        parser.error("--port, --rest_port: give at least one of them, or no protocol is served")
    if options.port == options.rest_port and options.grpc_bind_address == options.rest_bind_address:
        parser.error(f"--rest_port: {options.rest_port} is --port as well; give each protocol its own")
    if options.metrics_enable and not options.rest_port:
        parser.error("--metrics_enable: /metrics is served on the REST port; give --rest_port")
    return options


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is inferred, and how: the server's and the reference's."""
    parser.add_argument("--model_path", type=Path, required=True, help="model directory with versions, or a model file")
    parser.add_argument("--target_device", default="CPU", help="OpenVINO device, default CPU")
    parser.add_argument("--plugin_config", type=_plugin_config, default={}, help="OpenVINO properties as a JSON object")


def _port(text: str) -> int:
    return _whole_number(text, 0, 65535)


def _nireq(text: str) -> int:
    return _whole_number(text, 0, NIREQ_MAX)


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
    if not isinstance(properties, dict):
        raise argparse.ArgumentTypeError('must be a JSON object, as {"NUM_STREAMS": "2"}')
    for name, value in properties.items():
        if not isinstance(value, str | int | float | bool):
            raise argparse.ArgumentTypeError(f"{name}: must be a string, a number or a boolean")
    if "PERFORMANCE_HINT" in properties and "NUM_STREAMS" in properties:
        raise argparse.ArgumentTypeError("PERFORMANCE_HINT and NUM_STREAMS exclude each other; give one of them")
    return properties
