"""`python -m loadproof_server.reference`: OpenVINO's own answers to recorded requests, for a server's to be checked.

Reads KServe ModelInferRequest messages, length-delimited, and writes as many ModelInferResponse messages in the same
order. It shares the server's engine and codec, but neither protocol: the same properties give the same bits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from google.protobuf import proto
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from loadproof_server import grpc_adapter, options, repository
from loadproof_server.engine import Engine
from loadproof_server.errors import InvalidRequest, ServingError, StartError, UsageError
from loadproof_server.metrics import Metrics
from loadproof_server.plane import ServedModel


def main(arguments: list[str] | None = None) -> None:
    """Exit 0 when all are answered; 2 for wrong flags, 1 for a model that does not load or a request it refuses."""
    try:
        chosen = _parse(arguments)
        file = repository.find(chosen.model_path)[-1]
        preparation = options.preparation(vars(chosen))
        engine = Engine(file.path, chosen.target_device, chosen.plugin_config, 1, preparation)
        with chosen.requests.open("rb") as requests, chosen.answers.open("wb") as answers:
            for number, request in enumerate(_read(requests)):
                response = _answer(engine, file.version, request, number)
                proto.serialize_length_prefixed(pb.ModelInferResponse.FromString(response), answers)
        engine.close()
    except StartError as error:
        _exit(str(error), error.exit_code)
    except ServingError as error:
        _exit(str(error), 1)
    except OSError as error:
        _exit(f"{error.filename}: {error.strerror}", 1)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options.Parser(prog="python -m loadproof_server.reference", description=__doc__, allow_abbrev=False)
    options.add_model_flags(parser, required=True)
    parser.add_argument("--requests", type=Path, required=True, help="file of ModelInferRequest messages")
    parser.add_argument("--answers", type=Path, required=True, help="file of ModelInferResponse messages to write")
    return parser.parse_args(arguments)


def _read(requests: BinaryIO) -> Iterator[Any]:
    try:
        while (request := proto.parse_length_prefixed(pb.ModelInferRequest, requests)) is not None:
            yield request
    except (DecodeError, ValueError):
        raise UsageError(f"--requests: {requests.name} does not hold length-delimited ModelInferRequests") from None


def _answer(engine: Engine, version: str, request: Any, number: int) -> bytes:
    name = request.model_name
    model = ServedModel(name, version, engine, Metrics().add_model(name, version, engine.streams))
    try:
        arrays = model.read_inputs(grpc_adapter.inputs_of(request, request.raw_input_contents))
        wanted = model.wanted_outputs(grpc_adapter.outputs_of(request))
        return b"".join(grpc_adapter.encode(model, request.id, engine.infer(arrays, wanted)))
    except ServingError as error:
        raise InvalidRequest(f"request {number}: {error}") from None


def _exit(message: str, code: int) -> NoReturn:
    print(f"loadproof-reference: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
