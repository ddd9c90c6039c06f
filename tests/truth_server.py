"""A small real KServe server (gRPC and REST, binary extension) that logs every request it sees and lies on demand.

Its model answers `y = 2 x` (FP32, any shape). `python tests/truth_server.py --log FILE` prints its two ports as one
JSON line. Each request becomes one JSON line in the log: id, arrival and departure (monotonic ns), protocol, the
client's address, and what was done to it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TextIO

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

LIES = ("error", "wrong", "short", "drop", "stall", "garbage")
ID_HEADER = "x-loadproof-id"


@dataclass
class Truth:
    """What the server does, and its log. `every` = n: each n-th request (by arrival) gets the next lie; 0: none."""

    log: TextIO
    delay_s: float
    lies: list[str]
    every: int
    stall_s: float
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: int = 0

    def serve(self, name: str, protocol: str, peer: str) -> str:
        """Counts and logs one request, and takes its service time; returns "ok" or the lie that it will get."""
        arrived_ns = time.monotonic_ns()
        with self._lock:
            self._seen += 1
            turn, rest = divmod(self._seen, self.every or self._seen + 1)
            deed = "ok" if rest else self.lies[turn % len(self.lies)]
        if deed != "stall":
            time.sleep(self.delay_s)
        entry = {"id": name, "protocol": protocol, "peer": peer, "did": deed}
        line = json.dumps({**entry, "arrived_ns": arrived_ns, "left_ns": time.monotonic_ns()})
        with self._lock:
            self.log.write(line + "\n")
            self.log.flush()
        if deed == "stall":
            time.sleep(self.stall_s)
        return deed


def double(raw: bytes, deed: str) -> bytes:
    """The model: twice the input, one number off for `wrong`, the last number missing for `short`."""
    y = np.frombuffer(raw, "<f4") * np.float32(2)
    if deed == "wrong":
        y[-1] += np.float32(1)
    return (y[:-1] if deed == "short" else y).tobytes()


def cut(peer: str) -> None:
    """Closes this process's TCP connection to `peer` (`ipv4:127.0.0.1:1234`) without gRPC's knowledge."""
    port = int(peer.rpartition(":")[2])
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(fd))) as copy:
                if copy.getpeername()[1] == port:
                    copy.shutdown(socket.SHUT_RDWR)


class Grpc:
    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def ServerLive(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        name = dict(context.invocation_metadata()).get(ID_HEADER, "")
        deed = self._truth.serve(name, "grpc", context.peer())
        if deed == "drop":
            cut(context.peer())
        if deed == "error":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "told to fail")
        return b"\xff\xff" if deed == "garbage" else self._answer(request, deed)

    def _answer(self, request: Any, deed: str) -> Any:
        x = request.inputs[0]
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="y", datatype=x.datatype, shape=x.shape)
        answer.raw_output_contents.append(double(request.raw_input_contents[0], deed))
        return answer

    def handlers(self) -> Any:
        """The service without the stubs' serialiser, which would refuse to send garbage."""
        methods = ("ServerLive", "ServerReady", "ModelReady", "ModelInfer")
        return grpc.method_handlers_generic_handler(
            "inference.GRPCInferenceService",
            {
                name: grpc.unary_unary_rpc_method_handler(
                    getattr(self, name), getattr(service_pb2, f"{name}Request").FromString, as_bytes
                )
                for name in methods
            },
        )


def as_bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


class Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    truth: Truth

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the log that counts is the Truth's."""

    def do_GET(self) -> None:
        self._send(200, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        peer = f"ipv4:{self.client_address[0]}:{self.client_address[1]}"
        deed = self.truth.serve(self.headers[ID_HEADER], "rest", peer)
        if deed == "error":
            self._send(429, b'{"error": "told to fail"}')
        elif deed == "garbage":
            self._send(200, b"this is not JSON")
        elif deed == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self._answer(body, deed)

    def _answer(self, body: bytes, deed: str) -> None:
        length = int(self.headers["Inference-Header-Content-Length"])
        x = json.loads(body[:length])["inputs"][0]
        raw = double(body[length:], deed)
        parameters = {"binary_data_size": len(raw)}
        y = {"name": "y", "datatype": x["datatype"], "shape": x["shape"], "parameters": parameters}
        head = json.dumps({"model_name": "double", "outputs": [y]}).encode()
        self._send(200, head + raw, {"Inference-Header-Content-Length": str(len(head))})

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--delay-ms", type=float, default=1)
    parser.add_argument("--lies", nargs="+", choices=LIES, default=["error"])
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--stall-s", type=float, default=60)
    args = parser.parse_args()
    with Path(args.log).open("w") as log:
        run(Truth(log, args.delay_ms / 1000, args.lies, args.every, args.stall_s))


def run(truth: Truth) -> None:
    """Serves until SIGTERM."""
    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", 2**30)])
    server.add_generic_rpc_handlers((Grpc(truth).handlers(),))
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ThreadingHTTPServer.request_queue_size = 256
    rest = ThreadingHTTPServer(("127.0.0.1", 0), type("RestOf", (Rest,), {"truth": truth}))
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": grpc_port, "rest": rest.server_address[1]}), flush=True)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    os._exit(0)  # stalled requests may sleep on in their threads; nothing is left to save


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    main()
