"""A transport and nothing around it: greenlets that send the next request when an answer came, and keep no records.

    python -m benchmarks.bare_loop PROTOCOL TRANSPORT ADDRESS PAYLOADS CLIENTS SECONDS

prints {"requests", "seconds", "cpu_us_per_request"} as JSON. A program of its own, as the load's workers are: gevent
patches the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import gevent.monkey

gevent.monkey.patch_all()

from loadproof_clients.spec import Load, LoadSpec, Measure  # noqa: E402
from loadproof_clients.tensors import files  # noqa: E402
from loadproof_clients.transport import Client  # noqa: E402
from loadproof_clients.transports import prepare  # noqa: E402


def main(protocol: str, transport: str, address: str, payloads: str, clients: str, seconds: str) -> None:
    load = Load.model_validate({"protocol": protocol, "transport": transport, "clients": int(clients)})
    spec = LoadSpec(run="bare", url=address, model="null", load=load, measure=Measure())
    entries = files.read(Path(payloads))
    make, sent = prepare(spec, entries), [0] * int(clients)
    end_s = 0.0

    def client(number: int, transport: Client) -> None:
        payload = number
        while time.monotonic() < end_s:
            payload = (payload + 1) % len(entries)
            transport.infer(payload, "bare.1.123456.m")
            sent[number] += 1

    connected = [make() for _ in sent]
    for one in connected:
        one.connect(10)
    began_s, before = time.monotonic(), os.times()
    end_s = began_s + float(seconds)
    gevent.joinall([gevent.spawn(client, *numbered) for numbered in enumerate(connected)], raise_error=True)
    took_s, after = time.monotonic() - began_s, os.times()
    cpu_s = after.user + after.system - before.user - before.system
    print(json.dumps({"requests": sum(sent), "seconds": took_s, "cpu_us_per_request": cpu_s / sum(sent) * 1e6}))
    for one in connected:
        one.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
