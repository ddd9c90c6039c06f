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

import numpy as np

from loadproof_clients import audit, transports
from loadproof_clients.payloads import making
from loadproof_clients.payloads.shapes import Input, PayloadError
from loadproof_clients.records import OK, PHASES, RECORD, UNKNOWN_NS, UNREADABLE, request_id
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors import files
from loadproof_clients.tensors.tensor import Tensors, fills
from loadproof_clients.transport import Client, Failure, MetadataFailed

UNREACHABLE, UNSUITABLE, REFERENCE_FAILED = 1, 2, 4
REFERENCE, AUDIT = PHASES.index("reference"), PHASES.index("audit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = _options(arguments)
    spec = LoadSpec.model_validate_json(options.spec.read_bytes())
    try:
        inputs = transports.inputs(spec)
        files.write(options.payloads, making.make(inputs, spec.load))
    except MetadataFailed as error:
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
            files.write(options.answers, _references(asked, files.read(options.payloads)))
    except Failure as error:
        last = asked.rows[-1]
        return _fail(REFERENCE_FAILED, f"{spec.url}: {PHASES[last['phase']]} request {last['payload']} failed: {error}")
    finally:
        np.array(asked.rows, RECORD).tofile(options.records)
    return OK


def _audit(asked: Asked, payloads: Sequence[Tensors]) -> None:
    with closing(transports.prepare(asked.spec, payloads)()) as client:
        began_ns, quickest_ns, pairs = time.monotonic_ns(), sys.maxsize, 0
        for number, ends in audit.order(len(payloads)):
            asked.ask(client, number, AUDIT)
            quickest_ns, pairs = min(quickest_ns, asked.took_ns), pairs + ends
            if ends and audit.is_over(pairs, (time.monotonic_ns() - began_ns) / 1e9, quickest_ns / 1e9):
                return


def _references(asked: Asked, payloads: Sequence[Tensors]) -> Iterator[Tensors]:
    with closing(transports.prepare(asked.spec, payloads)()) as client:
        for number in range(len(payloads)):
            yield asked.ask(client, number, REFERENCE)


class Asked:
    """Requests as the load will send them, one after the other, and their records."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        self.rows: list[np.void] = []
        self.took_ns = 0  # the latest

    def ask(self, client: Client, payload: int, phase: int) -> Tensors:
        """The answer's tensors; raises Failure, which is in the records."""
        row = np.zeros(1, RECORD)[0]
        row["sequence"], row["payload"], row["phase"] = len(self.rows), payload, phase
        row["first_byte_ns"] = UNKNOWN_NS
        self.rows.append(row)
        exchange = client.infer(payload, request_id(self.spec.run, 0, int(row["sequence"]), phase))
        row["planned_ns"] = row["sent_ns"] = exchange.sent_ns
        row["first_byte_ns"], row["received_ns"] = exchange.first_byte_ns, exchange.received_ns
        row["status"] = exchange.status
        if exchange.status != OK:
            raise Failure(exchange.status, exchange.message)
        self.took_ns = exchange.received_ns - exchange.sent_ns
        try:
            tensors = client.tensors(exchange.answer)
            if not all(map(fills, tensors)):
                raise Failure(UNREADABLE, "an output is not of the size that its datatype and shape say")
            return tensors
        except Failure as error:
            row["status"] = error.status
            raise


if __name__ == "__main__":
    sys.exit(main())
