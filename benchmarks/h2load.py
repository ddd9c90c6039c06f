"""h2load (C, of nghttp2) as the yardstick: the same inference, sent by a program that does little else."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

FLOATS: Final = 64  # of the null server's input
MODEL: Final = "null"
ID: Final = "x-loadproof-id: 6734ad00-1.1.123456.m"  # what Loadproof's requests carry too


@dataclass(frozen=True)
class Reading:
    """One call of h2load: its own log's latencies, its rate from the first request to the last answer, its CPU."""

    latency_ms: NDArray[np.float64]
    rate_rps: float
    cpu_us_per_request: float


def offer(address: str, protocol: str, clients: int, requests: int) -> Reading:
    """An inference of the null server's by `run`; it raises the same."""
    with tempfile.TemporaryDirectory() as name:
        body = Path(name) / "body"
        flags, path = message(protocol, MODEL, FLOATS, body)
        return run(f"http://{address}/{path}", [*flags, "-H", ID], body, clients, requests)


def run(url: str, flags: list[str], body: Path, clients: int, requests: int) -> Reading:
    """A closed loop: each client with a connection of its own and one request in flight, in one thread.

    Raises CalledProcessError, or AssertionError where an answer was not HTTP 200.
    """
    with tempfile.NamedTemporaryFile() as log:
        command = ["h2load", "-t", "1", "-c", str(clients), "-m", "1", "-n", str(requests), *flags]
        command += ["-d", str(body), f"--log-file={log.name}", url]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        start_us, http, time_us = np.loadtxt(log.name, dtype=np.int64, unpack=True, ndmin=2)
    assert (http == 200).all() and len(http) == requests, "h2load saw a failure"
    seconds = float((start_us + time_us).max() - start_us.min()) / 1e6
    return Reading(time_us / 1e3, requests / seconds, (usage.ru_utime + usage.ru_stime) / requests * 1e6)


def message(protocol: str, model: str, floats: int, body: Path) -> tuple[list[str], str]:
    """Writes an inference of ones (x, FP32 [1, floats]) as `body`; h2load's flags and the path that go with it."""
    raw = np.ones(floats, np.float32).tobytes()
    if protocol == "grpc":
        request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[raw])
        request.inputs.add(name="x", datatype="FP32", shape=[1, floats])
        encoded = request.SerializeToString()
        body.write_bytes(struct.pack(">BI", 0, len(encoded)) + encoded)
        flags = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        return flags, "inference.GRPCInferenceService/ModelInfer"
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, floats], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body.write_bytes(head + raw)
    return ["--h1", "-H", f"Inference-Header-Content-Length: {len(head)}"], f"v2/models/{model}/infer"
