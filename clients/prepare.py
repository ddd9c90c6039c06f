"""Asks the server for its model's inputs, makes the run's payloads and, on demand, takes reference answers from it.

`python -m clients.prepare --spec SPEC.json --payloads OUT.bin [--answers OUT.bin --records OUT.rec]`
Exit codes: 0 done; 1 the server cannot be asked; 2 the plan does not suit the model; 4 a reference request failed (what
was sent is in the records). Each mistake is a line on stderr, `loadproof: load.shapes: ...`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from clients import metadata, payloads
from clients.answers import Tensor
from clients.load import transports
from clients.records import OK, PHASES, RECORD, request_id
from clients.shapes import PayloadError
from clients.spec import LoadSpec

UNREACHABLE, UNSUITABLE, REFERENCE_FAILED = 1, 2, 4
REFERENCE = PHASES.index("reference")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = _options(arguments)
    spec = LoadSpec.model_validate_json(options.spec.read_bytes())
    try:
        payloads.write_messages(options.payloads, payloads.make(metadata.ask(spec), spec.load, spec.model))
    except metadata.MetadataFailed as error:
        return _fail(UNREACHABLE, f"{spec.url}: cannot learn the inputs of the model {spec.model}: {error}")
    except PayloadError as error:
        return _fail(UNSUITABLE, *(f"{mistake.key}: {mistake.message}" for mistake in error.mistakes))
    if options.answers:
        requests = list(payloads.read_messages(options.payloads, service_pb2.ModelInferRequest))
        return _take_references(spec, requests, options.answers, options.records)
    return OK


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m clients.prepare", description=str(__doc__).splitlines()[0])
    parser.add_argument("--spec", type=Path, required=True, help="the run's LoadSpec as JSON")
    parser.add_argument("--payloads", type=Path, required=True, help="file for the payloads")
    parser.add_argument("--answers", type=Path, help="ask the server itself for the references, into this file")
    parser.add_argument("--records", type=Path, help="with --answers: file for the records of these requests")
    options = parser.parse_args(arguments)
    if (options.answers is None) != (options.records is None):
        parser.error("--answers and --records go together")
    return options


def _fail(code: int, *lines: str) -> int:
    for line in lines:
        print(f"loadproof: {' '.join(line.split())}", file=sys.stderr)
    return code


def _take_references(spec: LoadSpec, requests: Sequence[Any], answers: Path, records: Path) -> int:
    """Send each payload once, as the load will; the first failure ends it, as it decides the run's verdict."""
    rows: list[np.void] = []
    try:
        with closing(transports.prepare(spec, requests)()) as client:
            payloads.write_messages(answers, _ask(spec, client, len(requests), rows))
    except transports.Failure as error:
        return _fail(REFERENCE_FAILED, f"{spec.url}: reference request {len(rows) - 1} failed: {error}")
    finally:
        np.array(rows, RECORD).tofile(records)
    return OK


def _ask(spec: LoadSpec, client: transports.Transport, count: int, rows: list[np.void]) -> Iterator[Any]:
    for number in range(count):
        row = np.zeros(1, RECORD)[0]
        rows.append(row)
        row["sequence"] = row["payload"] = number
        row["phase"] = REFERENCE
        row["planned_ns"] = row["sent_ns"] = time.monotonic_ns()
        try:
            result = client.infer(number, request_id(spec.run, 0, number, REFERENCE))
            row["received_ns"] = time.monotonic_ns()
            yield _message(spec.model, client.tensors(result))
        except transports.Failure as error:
            row["received_ns"] = row["received_ns"] or time.monotonic_ns()
            row["status"] = error.status
            raise


def _message(model: str, tensors: Sequence[Tensor]) -> Any:
    answer = service_pb2.ModelInferResponse(model_name=model)
    for tensor in tensors:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        answer.raw_output_contents.append(bytes(tensor.raw))
    return answer


if __name__ == "__main__":
    sys.exit(main())
