"""A program that has no token and speaks to a master all the same: what it sends is all that it can think of.

    python -m tests.clients.stranger --host H --port P --spool FILE [--flood N] [--sockets N]

Prints a line once all is sent, and stays until its standard input ends.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import os
import socket
import sys
from pathlib import Path
from typing import Any

import msgpack
import zmq

from loadproof_clients.load import messages
from loadproof_clients.records import RECORD

Frames = list[bytes]


def packed(kind: Any, data: Any, identity: Any) -> bytes:
    return bytes(msgpack.packb((kind, data, identity)))


def hello(spool: Path) -> dict[str, Any]:
    """As a worker of this machine says it, with a file of somebody else's for its spool."""
    facts = {"pid": os.getpid(), "host": "h", "version": messages.version(), "machine": messages.machine()}
    return {**facts, "clock": messages.clock(), "spool": str(spool), "joined": False}


def everything(identity: str, spool: Path) -> list[Frames]:
    rows = bytes(RECORD.itemsize - 3) + b"\x63\x07\x07"  # of a phase that there is not
    bodies = [
        b"\xc1",
        b"",
        packed("client_ready", 2, identity),
        packed("client_ready", {"__datetime__": True, "as_str": "no time"}, identity),
        packed("client_ready", "2.47.0", identity),
        packed(messages.HELLO, hello(spool), identity),
        packed(messages.HELLO, "hello", identity),
        packed(messages.HELLO, {"pid": "x"}, 7),
        packed(messages.CHUNK, {"number": 0, "data": rows}, identity),
        packed(messages.REPORT, None, identity),
        packed(messages.ARMED, {"clients": 10**9}, identity),
        packed("heartbeat", {"state": None}, identity),
        packed("stats", {"__ObjectId__": 1}, identity),
        packed("exception", None, identity),
        packed("quit", None, identity),
        packed([1], None, None),
        packed("x", None, identity) + b"more",
        b"x" * 100_000,
    ]
    forged = hmac.digest(b"no token of theirs", b"x", hashlib.sha256)
    sealed = [kind + bytes(7) + b"\x01" + forged + body for kind in (b"\0", b"\1", b"\2") for body in bodies]
    return [[body] for body in (*bodies, *sealed)] + [[b"a", b"b"], [b"", bodies[4]]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--spool", type=Path, default=Path("/nowhere"))
    parser.add_argument("--flood", type=int, default=0)
    parser.add_argument("--sockets", type=int, default=0)
    args = parser.parse_args()
    host = f"[{args.host}]" if ":" in args.host else args.host
    context = zmq.Context()
    with contextlib.ExitStack() as stack:
        for _ in range(args.sockets):
            stack.enter_context(socket.create_connection((args.host, args.port), 10))
        sent = 0
        for identity in (b"stranger", b"\xff\xfe\x01"):
            dealer = context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.IDENTITY, identity)
            dealer.setsockopt(zmq.IPV6, 1)
            dealer.connect(f"tcp://{host}:{args.port}")
            for frames in everything(identity.decode("latin-1"), args.spool):
                dealer.send_multipart(frames)
                sent += 1
            for _ in range(args.flood):
                dealer.send(b"flood")
        context.destroy(linger=5000)  # it has all left by then
        print(sent, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
