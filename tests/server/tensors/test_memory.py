"""What 16 MiB in and 16 MiB out take of the server's memory while they are under way."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.server.small_models import Serve, Server, wait_until

PAYLOAD_BYTES = 16 << 20
VALUES = np.random.default_rng(1).standard_normal((1024, 4096)).astype(np.float32)


def over_grpc(server: Server) -> None:
    request = pb.ModelInferRequest(model_name="free", raw_input_contents=[VALUES.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=VALUES.shape)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        assert len(GRPCInferenceServiceStub(channel).ModelInfer(request).raw_output_contents[0]) == PAYLOAD_BYTES


def over_rest(server: Server) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": VALUES.shape, "parameters": {"binary_data_size": PAYLOAD_BYTES}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    connection = http.client.HTTPConnection(server.rest, timeout=60)
    headers = {"Inference-Header-Content-Length": str(len(header))}
    connection.request("POST", "/v2/models/free/infer", header + VALUES.tobytes(), headers)
    assert len(connection.getresponse().read()) > PAYLOAD_BYTES
    connection.close()


def peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


@pytest.mark.parametrize(("ask", "payloads"), [(over_grpc, 3), (over_rest, 3)], ids=["gRPC", "REST"])
def test_a_large_request_takes_a_bounded_number_of_copies(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Server], None], payloads: int
) -> None:
    """Of one request at a time; the infer request's own tensors are there from the first one on.

    By mmap each block comes and goes with its request; what `tensors.memory` keeps would be there before the peak.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    server = serve("free", "--nireq", "1")
    process = psutil.Process(server.process.pid)
    for _ in range(5):
        ask(server)
    idle = process.memory_info().rss
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is what it is now
    for _ in range(10):
        ask(server)
    assert peak_bytes(process) - idle < (payloads + 0.5) * PAYLOAD_BYTES
    # The client has its answer before the server has let go of the answer's memory.
    wait_until(lambda: process.memory_info().rss - idle < PAYLOAD_BYTES)


COUNT_FAULTS = """
import resource
from loadproof_server.tensors import memory
memory.keep_freed_memory()
def request():
    b"".join([bytes(16384 + n) for n in range(37)])  # pieces, and the whole of them
for _ in range(5): request()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100): request()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_memory_of_a_tensor_is_not_faulted_in_for_each_request() -> None:
    """Unless the operator has set the allocator up: then each of these takes 150 pages and more."""

    def faults(**variables: str) -> int:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-c", COUNT_FAULTS]
        return int(subprocess.run(command, env=environment | variables, capture_output=True, check=True).stdout)

    assert faults() < 1000
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > 10_000
