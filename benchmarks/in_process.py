"""What an inference takes without a server: in a loop by itself, and in turns with the way of its tensors over TCP.

    python -m benchmarks.in_process MODEL.xml CONNECTIONS,...

compiles the model with the hint LATENCY, and prints one line of JSON. `alone`: requests/s, mean and CPU of OpenVINO's
start_async and wait, one at a time, as the server's threads do it. `moving_ms`: for each number of connections, the
mean time that a request's bytes take over a TCP connection of the loopback, and an answer's bytes back, to and from a
thread that does nothing else. Before each such move its connection's thread infers: so the bytes find the caches as an
inference leaves them, and the cores as busy as the other connections' inferences make them, as a served request does.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
import openvino as ov

WARMUP: Final = 5
ALONE_S: Final = 2.0
MOVING_S: Final = 2.0


def alone(request: Any, array: Any) -> dict[str, float]:
    for _ in range(WARMUP):
        infer(request, array)
    number, begin_s, cpu_s = 0, time.perf_counter(), time.process_time()
    while (took_s := time.perf_counter() - begin_s) < ALONE_S:
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


def moving_ms(requests: list[Any], array: Any) -> float:
    """The mean over connections that infer and move by turns, as many as there are infer requests."""
    times_ms: list[float] = []
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        pairs = []
        for _ in requests:
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            server = stack.enter_context(listener.accept()[0])
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pairs.append((client, server))
        answer = infer(requests[0], array)
        end_s = time.perf_counter() + MOVING_S
        echoes = [threading.Thread(target=echo, args=(server, array.nbytes, answer)) for _, server in pairs]
        moves = [
            threading.Thread(target=move, args=(client, request, array, end_s, times_ms))
            for (client, _), request in zip(pairs, requests, strict=True)
        ]
        for thread in (*echoes, *moves):
            thread.start()
        for thread in (*moves, *echoes):
            thread.join()
    return sum(times_ms) / len(times_ms)


def move(connection: socket.socket, request: Any, array: Any, end_s: float, times_ms: list[float]) -> None:
    body, place = array.tobytes(), bytearray(len(infer(request, array)))
    while (begin_s := time.perf_counter()) < end_s:
        connection.sendall(body)
        take_all(connection, place)
        times_ms.append((time.perf_counter() - begin_s) * 1e3)
        infer(request, array)
    connection.shutdown(socket.SHUT_WR)


def echo(connection: socket.socket, request_bytes: int, answer: bytes) -> None:
    place = bytearray(request_bytes)
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
    file, connections = sys.argv[1:]
    compiled = ov.Core().compile_model(file, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    array = np.ones(compiled.inputs[0].shape, np.float32)
    found: dict[str, Any] = {"alone": alone(compiled.create_infer_request(), array)}
    found["moving_ms"] = {
        each: moving_ms([compiled.create_infer_request() for _ in range(int(each))], array)
        for each in connections.split(",")
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
