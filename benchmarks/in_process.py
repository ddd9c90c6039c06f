"""What an inference takes without a server: in a loop by itself, and in turns with the way of its tensors over TCP.

    python -m benchmarks.in_process MODEL.xml

compiles the model with the hint LATENCY, and prints one line of JSON. `alone`: requests/s, mean and CPU of OpenVINO's
start_async and wait, one at a time, as the server's threads do it. `moving_ms`: the mean time that a request's bytes
take over a TCP connection of the loopback, in pieces of 16 KiB as h2load writes them, and an answer's bytes back, to
and from a thread that does nothing else. There is an inference before each move, so the bytes find the caches as those
of a served request do.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any, Final

import numpy as np
import openvino as ov

WARMUP: Final = 5
EACH_S: Final = 2.0
PIECE_BYTES: Final = 1 << 14


def alone(request: Any, array: Any) -> dict[str, float]:
    for _ in range(WARMUP):
        infer(request, array)
    number, begin_s, cpu_s = 0, time.perf_counter(), time.process_time()
    while (took_s := time.perf_counter() - begin_s) < EACH_S:
        infer(request, array)
        number += 1
    cpu_s = time.process_time() - cpu_s
    return {"requests_per_s": number / took_s, "mean_ms": took_s / number * 1e3, "cpu_us": cpu_s / number * 1e6}


def infer(request: Any, array: Any) -> bytes:
    request.set_input_tensor(0, ov.Tensor(array, array.shape, ov.Type.f32))
    request.start_async()
    request.wait()
    answer: bytes = request.get_output_tensor(0).data.tobytes()
    return answer


def moving_ms(request: Any, array: Any) -> float:
    answer = infer(request, array)
    body, place = memoryview(array.tobytes()), bytearray(len(answer))
    pieces = [body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES)]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        echoing = threading.Thread(target=echo, args=(listener.accept()[0], len(body), answer))
        echoing.start()
        times_ms, end_s = [], time.perf_counter() + EACH_S
        while (begin_s := time.perf_counter()) < end_s:
            for piece in pieces:
                client.sendall(piece)
            take_all(client, place)
            times_ms.append((time.perf_counter() - begin_s) * 1e3)
            infer(request, array)
        client.shutdown(socket.SHUT_WR)
        echoing.join()
    return sum(times_ms) / len(times_ms)


def echo(connection: socket.socket, request_bytes: int, answer: bytes) -> None:
    place = bytearray(request_bytes)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while take_all(connection, place):
            connection.sendall(answer)


def take_all(connection: socket.socket, place: bytearray) -> bool:
    """Fills `place`; False where the connection ended."""
    rest = memoryview(place)
    while rest:
        number = connection.recv_into(rest)
        if not number:
            return False
        rest = rest[number:]
    return True


def main() -> None:
    compiled = ov.Core().compile_model(sys.argv[1], "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    request, array = compiled.create_infer_request(), np.ones(compiled.inputs[0].shape, np.float32)
    print(json.dumps({"alone": alone(request, array), "moving_ms": moving_ms(request, array)}))


if __name__ == "__main__":
    main()
