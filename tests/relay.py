"""A network with a delay where the kernel has none to offer: passes TCP on and holds every byte a while, both ways.

    python -m tests.relay --delay-ms 5 192.0.2.2:9000=198.51.100.2:9000

For each connection to the left address it opens one to the right; a round trip takes two delays longer. Prints a line
once it listens. Threads, as asyncio's timers count whole milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import socket
import threading
import time

CHUNK_BYTES = 1 << 16


def pass_on(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    """One direction, until its end or the connection's."""
    held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def release() -> None:
        with contextlib.suppress(OSError):
            while True:
                due_s, data = held.get()
                time.sleep(max(0, due_s - time.monotonic()))
                if not data:
                    break
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    threading.Thread(target=release, daemon=True).start()
    data = b"begin"
    while data:
        try:
            data = source.recv(CHUNK_BYTES)
        except OSError:
            data = b""
        held.put((time.monotonic() + delay_s, data))


def serve(listener: socket.socket, target: tuple[str, int], delay_s: float) -> None:
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection(target, timeout=5)
        except OSError:
            client.close()
            continue
        server.settimeout(None)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pass_on, args=(*pair, delay_s), daemon=True).start()


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.relay", description=str(__doc__).splitlines()[0])
    parser.add_argument("--delay-ms", type=float, required=True, help="each way")
    parser.add_argument("routes", nargs="+", metavar="HOST:PORT=HOST:PORT")
    chosen = parser.parse_args()
    for route in chosen.routes:
        here, _, there = route.partition("=")
        listener = socket.create_server(address(here))
        threading.Thread(target=serve, args=(listener, address(there), chosen.delay_ms / 1e3), daemon=True).start()
    print("listening", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
