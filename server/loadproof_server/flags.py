"""The flags of OpenVINO Model Server that are supported here; reports a mistake in one line."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from loadproof_server.connections.tls import Tls
from loadproof_server.engine.preparation import Preparation
from loadproof_server.errors import UsageError
from loadproof_server.repository import config_file, settings
from loadproof_server.repository.model_options import READERS
from loadproof_server.repository.settings import Configuration, ModelSettings
from loadproof_server.repository.versions import LATEST, VersionPolicy, read_policy

LOG_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")
POLL_MAX_S: Final = 86_400
WORKERS_MAX: Final = 10_000  # that OVMS takes; more than there are CPUs are never started
_PREPARATION_HELP: Final = {
    "shape": '(1,3,224,224), with -1 for any size and 1:8 for a range, "auto" for any shape; JSON for several inputs',
    "batch_size": "4, 1:8 or auto; --shape takes precedence",
    "layout": "NHWC:NCHW: clients send NHWC to a model of NCHW; NCHW alone names dimensions; JSON for several tensors",
    "mean": "subtracted from the input: 127.5, or [123.675,116.28,103.53] by channel in the model's order",
    "scale": "by which the input is divided after that: 255, or [58.395,57.12,57.375]",
    "color_format": "BGR:RGB or RGB:BGR: turns the channels around",
    "precision": "UINT8:FP32: clients send bytes to a model of FP32",
}


@dataclass(frozen=True, slots=True)
class Options:
    """The parsed flags: one model or a configuration file; a port of 0 turns its protocol off."""

    model: ModelSettings | None
    config_path: Path | None
    file_system_poll_wait_seconds: int
    port: int
    rest_port: int
    grpc_bind_address: tuple[str, ...]  # IP addresses
    rest_bind_address: tuple[str, ...]
    grpc_workers: int
    rest_workers: int
    metrics_enable: bool
    metrics_list: tuple[str, ...]
    cache_dir: Path | None
    tls: Tls | None
    log_level: str
    log_path: Path | None
    warnings: tuple[str, ...] = ()  # about flags that are not followed to the letter

    @property
    def workers(self) -> int:
        """Processes that serve: a protocol's workers are the first so many of them."""
        return max(self.grpc_workers, self.rest_workers)

    def configuration(self) -> Configuration:
        """The models to serve, read anew from the configuration file where there is one; raises UsageError."""
        if self.config_path is not None:
            found = config_file.read(self.config_path)
        else:
            found = Configuration((self.model,) if self.model else ())
        if self.cache_dir is None:
            return found
        cache = {"CACHE_DIR": str(self.cache_dir)}
        return replace(
            found,
            models=tuple(replace(model, plugin_config={**cache, **model.plugin_config}) for model in found.models),
        )


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a UsageError of one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def parse(arguments: list[str] | None = None) -> Options:
    """The options; raises UsageError with one line."""
    parser = _Parser(prog="loadproof-server", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config_path", type=Path, help="OVMS's configuration file; excludes the flags of one model")
    parser.add_argument("--model_name", help="name under which the model is served")
    _add_model_flags(parser)
    parser.add_argument(
        "--model_version_policy",
        type=_typed(_version_policy),
        default=LATEST,
        help='JSON: {"latest": {"num_versions": 1}} (the default), {"specific": {"versions": [1, 3]}} or {"all": {}}',
    )
    parser.add_argument("--nireq", type=_nireq, default=0, help="infer requests; 0 (the default): OpenVINO's optimum")
    parser.add_argument("--cache_dir", type=Path, help="where OpenVINO keeps compiled models; default: nowhere")
    parser.add_argument(
        "--file_system_poll_wait_seconds",
        type=_poll,
        default=1,
        help="how often configuration and model directories are looked at; default 1, 0: only when asked to reload",
    )
    parser.add_argument("--port", type=_port, default=0, help="gRPC port; 0 (the default): no gRPC")
    parser.add_argument("--rest_port", type=_port, default=0, help="REST port; 0 (the default): no REST")
    _add_protocol_flags(parser)
    parser.add_argument(
        "--metrics_enable", type=_flag, nargs="?", const=True, default=False, help="/metrics on the REST port"
    )
    parser.add_argument(
        "--metrics_list",
        type=_typed(lambda text: settings.check_metrics_list(text.split(","))),
        default=(),
        help="which metrics, separated by commas; default: OVMS's default ones",
    )
    parser.add_argument("--ssl_certfile", type=Path, help="the server's certificate, in PEM: both protocols under TLS")
    parser.add_argument("--ssl_keyfile", type=Path, help="its private key, in PEM, without a passphrase")
    parser.add_argument("--ssl_ca_certs", type=Path, help="clients need a certificate that one of these signed")
    parser.add_argument("--log_level", type=str.upper, choices=LOG_LEVELS, default="INFO")
    parser.add_argument("--log_path", type=Path, help="a file that gets the log as well")
    flags = vars(parser.parse_args(arguments))
    options = Options(model=_model(parser, flags), tls=_tls(parser, flags), warnings=_cap_workers(flags), **flags)
    if not options.port and not options.rest_port:
        parser.error("--port, --rest_port: give at least one of them, or no protocol is served")
    if options.port == options.rest_port and set(options.grpc_bind_address) & set(options.rest_bind_address):
        parser.error(f"--rest_port: {options.rest_port} is --port as well; give each protocol its own")
    for flag, port, workers in (("grpc", "port", options.grpc_workers), ("rest", "rest_port", options.rest_workers)):
        if workers > 1 and not flags[port]:
            parser.error(f"--{flag}_workers: {workers} processes serve nothing without --{port}; give it as well")
    if options.metrics_enable and not options.rest_port:
        parser.error("--metrics_enable: /metrics is served on the REST port; give --rest_port")
    if options.metrics_list and not options.metrics_enable:
        parser.error("--metrics_list: no metrics are served without --metrics_enable; give it as well")
    return options


def _add_protocol_flags(parser: argparse.ArgumentParser) -> None:
    """Where each protocol is served, and by how many processes."""
    for prefix, protocol in (("grpc", "gRPC"), ("rest", "REST")):
        parser.add_argument(
            f"--{prefix}_bind_address",
            type=_addresses,
            default="127.0.0.1",
            help=f"IP addresses or host names of {protocol}, separated by commas; default 127.0.0.1",
        )
        parser.add_argument(
            f"--{prefix}_workers",
            type=_workers,
            default=1,
            help=f"processes that serve {protocol} on its port, at most one for each CPU, each with a share of CPUs, "
            "streams and threads; default 1",
        )


def _cap_workers(flags: dict[str, Any]) -> tuple[str, ...]:
    """Lowers the workers in `flags` to one for each CPU; returns the warnings that say so."""
    cpus = len(os.sched_getaffinity(0))
    warnings = []
    for name in ("grpc_workers", "rest_workers"):
        if flags[name] > cpus:
            warnings.append(f"--{name}: {flags[name]} are more than there are CPUs; {cpus} are started")
            flags[name] = cpus
    return tuple(warnings)


def _tls(parser: _Parser, flags: dict[str, Any]) -> Tls | None:
    """Takes the flags of TLS out of `flags`."""
    certfile, keyfile, ca_certs = (flags.pop(f"ssl_{name}") for name in ("certfile", "keyfile", "ca_certs"))
    if not (certfile or keyfile or ca_certs):
        return None
    if not (certfile and keyfile):
        parser.error("--ssl_certfile, --ssl_keyfile: TLS needs both of them")
    return Tls(certfile, keyfile, ca_certs)


def _model(parser: _Parser, flags: dict[str, Any]) -> ModelSettings | None:
    """Takes the flags of one model out of `flags`; none of them may stand beside --config_path."""
    names = ("model_name", "model_path", "nireq", "target_device", "plugin_config", "model_version_policy", *READERS)
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
        settings.check_name(given["model_name"])
    except ValueError as error:
        parser.error(f"--model_name: {error}")
    return ModelSettings(
        given["model_name"],
        given["model_path"],
        given["nireq"],
        given["target_device"],
        given["plugin_config"],
        _preparation(given),
        given["model_version_policy"],
    )


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a model that say what is inferred, and how."""
    parser.add_argument("--model_path", type=Path, help="model directory with versions, or a model file")
    parser.add_argument("--target_device", default="CPU", help="OpenVINO device, default CPU")
    parser.add_argument(
        "--plugin_config", type=_typed(_plugin_config), default={}, help="OpenVINO properties as a JSON object"
    )
    for name, read in READERS.items():
        parser.add_argument(f"--{name}", type=_typed(read), help=_PREPARATION_HELP[name])


def _preparation(flags: Mapping[str, Any]) -> Preparation:
    """How the flags prepare the model."""
    return Preparation(**{name: flags[name] for name in READERS if flags[name] is not None})


def _port(text: str) -> int:
    return _whole_number(text, 0, 65535)


def _nireq(text: str) -> int:
    return _whole_number(text, 0, settings.NIREQ_MAX)


def _workers(text: str) -> int:
    return _whole_number(text, 1, WORKERS_MAX)


def _poll(text: str) -> int:
    return _whole_number(text, 0, POLL_MAX_S)


def _whole_number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
    return int(text)


def _addresses(text: str) -> tuple[str, ...]:
    """The IP addresses of a list of addresses and host names, each once."""
    return tuple(dict.fromkeys(address for name in text.split(",") for address in _addresses_of(name.strip())))


def _addresses_of(name: str) -> list[str]:
    """Of a host name all addresses of families that this machine has, but link-local ones, which need an interface."""
    try:
        return [str(ipaddress.ip_address("127.0.0.1" if name == "localhost" else name.strip("[]")))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(name or "?", None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except (OSError, UnicodeError):
        found = []
    addresses = [str(place[0]) for *_, place in found if "%" not in str(place[0])]
    if not addresses:
        raise argparse.ArgumentTypeError(f"{name!r} is no IP address, and no host name that is known here")
    return addresses


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type for argparse, which shows the message of an ArgumentTypeError only."""

    def read_flag(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_flag


def _plugin_config(text: str) -> dict[str, Any]:
    return settings.check_plugin_config(_json(text))


def _version_policy(text: str) -> VersionPolicy:
    return read_policy(_json(text))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON: {error}") from None
