"""Asks the server for its model's inputs, makes the run's payloads and, on demand, takes reference answers from it.

`python -m loadproof_clients.prepare --spec SPEC.json --payloads OUT [--audit] [--answers OUT] [--records OUT.rec]`
Exit codes: 0 done; 1 the server cannot be asked; 2 the plan does not suit the model; 4 a request of the audit or for a
reference failed (what was sent is in the records). Each mistake is a line on stderr, `loadproof: load.shapes: ...`.
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

from loadproof_clients import audit, metadata, payloads
from loadproof_clients.answers import Tensor
from loadproof_clients.load import transports
from loadproof_clients.records import OK, PHASES, RECORD, request_id
from loadproof_clients.shapes import Input, PayloadError
from loadproof_clients.spec import LoadSpec

UNREACHABLE, UNSUITABLE, REFERENCE_FAILED = 1, 2, 4
REFERENCE, AUDIT = PHASES.index("reference"), PHASES.index("audit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = _options(arguments)
    spec = LoadSpec.model_validate_json(options.spec.read_bytes())
    try:
        inputs = metadata.ask(spec)
        payloads.write_messages(options.payloads, payloads.make(inputs, spec.load, spec.model))
    except metadata.MetadataFailed as error:
        return _fail(UNREACHABLE, f"{spec.url}: cannot learn the inputs of the model {spec.model}: {error}")
    except PayloadError as error:
        return _fail(UNSUITABLE, *(f"{mistake.key}: {mistake.message}" for mistake in error.mistakes))
    if options.records:
        return _ask_all(spec, inputs, options)
    return OK


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadproof_clients.prepare", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--spec", type=Path, required=True, help="the run's LoadSpec as JSON")
    parser.add_argument("--payloads", type=Path, required=True, help="file for the payloads")
    parser.add_argument("--answers", type=Path, help="ask the server itself for the references, into this file")
    parser.add_argument("--audit", action="store_true", help="first see whether what is asked again comes from a cache")
    parser.add_argument("--records", type=Path, help="file for the records of these requests")
    options = parser.parse_args(arguments)
    if bool(options.answers or options.audit) != bool(options.records):
        parser.error("--records goes with --audit and --answers")
    return options


def _fail(code: int, *lines: str) -> int:
    for line in lines:
        print(f"loadproof: {' '.join(line.split())}", file=sys.stderr)
    return code


def _ask_all(spec: LoadSpec, inputs: Sequence[Input], options: argparse.Namespace) -> int:
    """The audit, then a reference to each payload; the first failure ends it, as it decides the run's verdict."""
    asked = Asked(spec)
    try:
        if options.audit:
            _audit(asked, audit.inputs(inputs, spec))
        if options.answers:
            requests = list(payloads.read_messages(options.payloads, service_pb2.ModelInferRequest))
            payloads.write_messages(options.answers, _references(asked, requests))
    except transports.Failure as error:
        last = asked.rows[-1]
        return _fail(REFERENCE_FAILED, f"{spec.url}: {PHASES[last['phase']]} request {last['payload']} failed: {error}")
    finally:
        np.array(asked.rows, RECORD).tofile(options.records)
    return OK


def _audit(asked: Asked, requests: Sequence[Any]) -> None:
    with closing(transports.prepare(asked.spec, requests)()) as client:
        began_ns, quickest_ns, pairs = time.monotonic_ns(), sys.maxsize, 0
        for number, ends in audit.order(len(requests)):
            asked.ask(client, number, AUDIT)
            quickest_ns, pairs = min(quickest_ns, asked.took_ns), pairs + ends
            if ends and audit.is_over(pairs, (time.monotonic_ns() - began_ns) / 1e9, quickest_ns / 1e9):
                return


def _references(asked: Asked, requests: Sequence[Any]) -> Iterator[Any]:
    with closing(transports.prepare(asked.spec, requests)()) as client:
        for number in range(len(requests)):
            yield _message(asked.spec.model, asked.ask(client, number, REFERENCE))


class Asked:
    """Requests as the load will send them, one after the other, and their records."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        self.rows: list[np.void] = []
        self.took_ns = 0  # the latest

    def ask(self, client: transports.Transport, payload: int, phase: int) -> list[Tensor]:
        """The answer's tensors; raises transports.Failure, which is in the records."""
        row = np.zeros(1, RECORD)[0]
        row["sequence"], row["payload"], row["phase"] = len(self.rows), payload, phase
        self.rows.append(row)
        row["planned_ns"] = row["sent_ns"] = time.monotonic_ns()
        try:
            name = request_id(self.spec.run, 0, int(row["sequence"]), phase)
            row["sent_ns"], row["received_ns"], result = client.infer(payload, name)
            row["planned_ns"] = row["sent_ns"]
            self.took_ns = int(row["received_ns"] - row["sent_ns"])
            return client.tensors(result)
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
