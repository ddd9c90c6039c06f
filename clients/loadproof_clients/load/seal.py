"""What master and workers put around their messages, so that each knows who sent one: no sockets here.

The campaign's token is the secret. A worker asks for the master's nonce, and both derive a key for each direction of
that worker's messages from token, nonce and the worker's identity. A sealed frame is SEALED, a counter that only grows,
an HMAC-SHA256 of counter and body, and the body: one that is altered, replayed, reflected or another worker's does not
open. Nothing is hidden: who reads the network reads the messages.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from typing import Final

ASK: Final = b"\x00"  # the worker's: its own nonce, and a proof that it has the token
TELL: Final = b"\x01"  # the master's answer: its nonce, and a proof that it has the token
SEALED: Final = b"\x02"
NONCE_BYTES: Final = 16
MAC_BYTES: Final = 32
TO_WORKER_BYTES_MAX: Final = 6 * 1024 * 1024  # the largest: a part, of 4 MiB
TO_MASTER_BYTES_MAX: Final = 2 * 1024 * 1024  # the largest: a chunk, of 1 MiB
FIRST_BYTES_MAX: Final = 4096  # of a frame of one who has not shown yet that it has the token
TO_MASTER: Final = b"to the master"
TO_WORKER: Final = b"to the worker"

_COUNTER: Final = struct.Struct(">Q")
_HEAD: Final = len(SEALED) + _COUNTER.size + MAC_BYTES


class Forged(Exception):
    """A frame that does not come from whom it should, or not for the first time."""


class Seal:
    """One direction between the master with `nonce` and the worker `identity`; it seals, or it opens."""

    def __init__(self, token: bytes, nonce: bytes, identity: bytes, direction: bytes) -> None:
        self._key = _mac(token, direction, nonce, identity)
        self._counter = 0  # of the last frame

    def seal(self, body: bytes) -> bytes:
        """The frame that carries `body`."""
        self._counter += 1
        counter = _COUNTER.pack(self._counter)
        return b"".join((SEALED, counter, _mac(self._key, counter, body), body))

    def open(self, frame: bytes) -> bytes:
        """The body; raises Forged."""
        if len(frame) < _HEAD or frame[:1] != SEALED:
            raise Forged
        counter = frame[1 : 1 + _COUNTER.size]
        body = frame[_HEAD:]
        if not hmac.compare_digest(frame[1 + _COUNTER.size : _HEAD], _mac(self._key, counter, body)):
            raise Forged
        (number,) = _COUNTER.unpack(counter)
        if number <= self._counter:
            raise Forged
        self._counter = number
        return body


def ask(token: bytes, identity: bytes, nonce: bytes) -> bytes:
    """The worker's first frame."""
    return ASK + nonce + _mac(token, ASK, identity, nonce)


def read_ask(token: bytes, identity: bytes, frame: bytes) -> tuple[bytes, bool]:
    """The worker's nonce, and whether it has the token; raises Forged where the frame is none."""
    if frame[:1] != ASK or len(frame) != 1 + NONCE_BYTES + MAC_BYTES:
        raise Forged
    nonce = frame[1 : 1 + NONCE_BYTES]
    return nonce, hmac.compare_digest(frame, ask(token, identity, nonce))


def tell(token: bytes, identity: bytes, asked: bytes, nonce: bytes) -> bytes:
    """The master's answer to the worker's nonce `asked`."""
    return TELL + nonce + _mac(token, TELL, identity, asked, nonce)


def read_tell(token: bytes, identity: bytes, asked: bytes, frame: bytes) -> bytes:
    """The master's nonce; raises Forged where it has another token than this worker."""
    nonce = frame[1 : 1 + NONCE_BYTES]
    if not hmac.compare_digest(frame, tell(token, identity, asked, nonce)):
        raise Forged
    return nonce


def fresh_nonce() -> bytes:
    """One that was never used."""
    return secrets.token_bytes(NONCE_BYTES)


def _mac(key: bytes, *parts: bytes) -> bytes:
    """One part at most is of no fixed length: no two lists of parts give one text."""
    return hmac.digest(key, b"\0".join(parts), "sha256")
