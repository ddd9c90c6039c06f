"""A KServe server that answers each request as badly as the name of its model says: `python -m tests.hostile_server`.

Prints its ports as one JSON line, `{"grpc": ..., "rest": ...}`, and serves until it is killed. It is always ready.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2

MB: Final = bytes(1_000_000)
GOOD: Final = {"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}
BINARY: Final = {**GOOD, "parameters": {"binary_data_size": 4}}
OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"

# The JSON of a REST answer, and the bytes after it.
OUTPUTS: Final[dict[str, Any]] = {
    "outputs_missing": None,
    "outputs_object": {"y": GOOD},
    "outputs_null": [None],
    "output_string": ["y"],
    "name_number": [{**GOOD, "name": 1}],
    "name_list": [{**GOOD, "name": ["y"]}],
    "datatype_unknown": [{**GOOD, "datatype": "FP128"}],
    "datatype_list": [{**GOOD, "datatype": ["FP32"]}],
    "shape_string": [{**GOOD, "shape": "1"}],
    "shape_of_strings": [{**GOOD, "shape": ["1"]}],
    "shape_bool": [{**GOOD, "shape": [True]}],
    "shape_negative": [{**GOOD, "shape": [-1]}],
    "shape_huge": [{**GOOD, "shape": [10**30]}],
    "shape_long": [{**GOOD, "shape": [1] * 1000}],
    "parameters_list": [{**GOOD, "parameters": [4]}],
    "parameters_null": [{**GOOD, "parameters": None}],
    "size_negative": [{**GOOD, "parameters": {"binary_data_size": -4}}],
    "size_huge": [{**GOOD, "parameters": {"binary_data_size": 10**30}}],
    "size_bool": [{**GOOD, "parameters": {"binary_data_size": True}}],
    "size_string": [{**GOOD, "parameters": {"binary_data_size": "4"}}],
    "size_float": [{**GOOD, "parameters": {"binary_data_size": 4.0}}],
    "data_object": [{**GOOD, "data": {"0": 1.0}}],
    "data_string": [{**GOOD, "data": "1.0"}],
    "data_of_strings": [{**GOOD, "data": ["1.0"]}],
    "data_null": [{**GOOD, "data": [None]}],
    "data_ragged": [{**GOOD, "data": [[1.0], 2.0]}],
    "data_huge": [{**GOOD, "data": [10**400]}],
    "integer_nan": [{**GOOD, "datatype": "INT64", "data": [float("nan")]}],
    "integer_fraction": [{**GOOD, "datatype": "INT64", "data": [1.5]}],
    "integer_too_large": [{**GOOD, "datatype": "INT64", "data": [2**63]}],
    "bool_number": [{**GOOD, "datatype": "BOOL", "data": [2]}],
    "bytes_number": [{**GOOD, "datatype": "BYTES", "data": [10**10]}],  # bytes(n) would be 10 GB
    "bytes_surrogate": [{**GOOD, "datatype": "BYTES", "data": ["\ud800"]}],
}
BODIES: Final = {
    **{name: json.dumps({"outputs": outputs}).encode() for name, outputs in OUTPUTS.items()},
    "nested": b"[" * 200_000,
    "nested_data": b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": %s1%s}]}'
    % (b"[" * 5000, b"]" * 5000),
    "huge_integer": b'{"outputs": %s}' % (b"9" * 100_000),
    "array": b"[]",
    "null": b"null",
    "latin": b'{"outputs": "\xe4"}',
    "empty": b"",
}
JSON_SIZES: Final = ("-5", "99999999999", "9" * 5000, "four", "3")


def rest(case: str) -> Iterable[bytes]:
    """The whole answer to an inference of the model `case`."""
    if case in BODIES:
        return [OK, b"Content-Length: %d\r\n\r\n" % len(BODIES[case]), BODIES[case]]
    if case.startswith("json_size"):
        head = f"Inference-Header-Content-Length: {JSON_SIZES[int(case[-1])]}\r\n"
        body = json.dumps({"outputs": [BINARY]}).encode() + bytes(4)
        return [OK, head.encode(), b"Content-Length: %d\r\n\r\n" % len(body), body]
    answers: dict[str, Callable[[], Iterable[bytes]]] = {
        "good": lambda: [OK, b"Content-Length: 81\r\n\r\n", json.dumps({"outputs": [GOOD]}).encode().ljust(81)],
        "gzip": lambda: _gzip(gzip.compress(bytes(200_000_000))),
        "length_long": lambda: [OK, b"Content-Length: %s\r\n\r\n" % (b"9" * 5000)],
        "large": lambda: [OK, b"Content-Length: 500000000\r\n\r\n", *itertools.repeat(MB, 500)],
        "large_chunked": lambda: itertools.chain([CHUNKED], itertools.repeat(b"f4240\r\n" + MB + b"\r\n")),
        "large_tiny_chunks": lambda: itertools.chain([CHUNKED], itertools.repeat(b"1\r\nx\r\n" * 10_000)),
        "large_until_closed": lambda: itertools.chain([OK, b"\r\n"], itertools.repeat(MB)),
        "endless_interim": lambda: itertools.repeat(b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" * 100),
        "endless_headers": lambda: itertools.chain([OK], (b"x-%d: y\r\n" % n for n in itertools.count())),
        "endless_header": lambda: itertools.chain([OK, b"x: "], itertools.repeat(b"x" * 1000)),
        "endless_extension": lambda: itertools.chain([CHUNKED, b"1;"], itertools.repeat(b"x" * 1000)),
        "endless_extensions": lambda: itertools.chain([CHUNKED], itertools.repeat(b"1;%s\r\nx\r\n" % (b"x" * 60_000))),
        "endless_trailers": lambda: itertools.chain(
            [CHUNKED, b"0\r\n"], (b"x-%d: y\r\n" % n for n in itertools.count())
        ),
    }
    return answers[case]()


def _gzip(body: bytes) -> list[bytes]:
    return [OK, b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body), body]


def message(case: str) -> bytes:
    """The ModelInferResponse of the model `case`, serialised."""
    answer = service_pb2.ModelInferResponse(model_name=case)
    output = answer.outputs.add(name="y", datatype="FP32", shape=[1])
    match case:
        case "good":
            answer.raw_output_contents.append(bytes(4))
        case "more_raw":
            answer.raw_output_contents.extend([bytes(4), bytes(4)])
        case "datatype_unknown":
            output.datatype = "FP128"
            answer.raw_output_contents.append(bytes(16))
        case "shape_negative":
            output.shape[:] = [-1]
            answer.raw_output_contents.append(bytes(4))
        case "shape_long":
            output.shape[:] = [1] * 1000
            answer.raw_output_contents.append(bytes(4))
        case "typed_too_large":
            output.datatype = "INT8"
            output.contents.int_contents.append(300)
        case "garbage":
            return b"\xff" * 100
        case "nested":
            return b"\x3b" * 10_000  # groups that begin and never end
        case "large":
            answer.raw_output_contents.append(bytes(100_000_000))
        case "gzip":
            answer.raw_output_contents.append(bytes(200_000_000))
    return bytes(answer.SerializeToString())


class _Grpc(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            self._infer if details.method.endswith("/ModelInfer") else lambda request, context: b"\x08\x01"
        )

    def _infer(self, request: bytes, context: Any) -> bytes:
        case = service_pb2.ModelInferRequest.FromString(request).model_name
        if case == "gzip":
            context.set_compression(grpc.Compression.Gzip)
        return message(case)


def _heads(sock: socket.socket) -> Iterator[str]:
    """The first line of each request; a request's body is read over."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            if not (more := sock.recv(1 << 16)):
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        sizes = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        while sizes and len(data) < int(sizes[0]):
            data += sock.recv(1 << 16)
        data = data[int(sizes[0]) :] if sizes else data
        yield head.split(b"\r\n")[0].decode()


def _serve_rest(sock: socket.socket, slow_s: float) -> None:
    with contextlib.suppress(OSError), sock:
        for line in _heads(sock):
            path = line.split()[1].split("/")
            if path[-1] == "infer":
                for piece in rest(path[-2]):
                    sock.sendall(piece)
                if path[-2] in BODIES:
                    continue
            elif slow_s:
                for at in range(10_000):
                    sock.sendall(OK[at : at + 1] or b"x")
                    time.sleep(slow_s)
            else:
                sock.sendall(OK + b"Content-Length: 2\r\n\r\n{}")
                continue
            return  # and close: what is to come has come


def main() -> None:
    slow_s = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([_Grpc()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"grpc": port, "rest": listener.getsockname()[1]}), flush=True)
    while True:
        threading.Thread(target=_serve_rest, args=(listener.accept()[0], slow_s), daemon=True).start()


if __name__ == "__main__":
    main()
