"""HTTP/2's frames (RFC 9113) as bytes, and header blocks (HPACK, RFC 7541): written without a table, read with one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import hpack

from loadproof_clients.wire.connection import HEAD_BYTES_MAX, Broken

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20
NO_ERROR, CANCEL = 0, 8
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 2, 3, 4, 5
WINDOW_MAX: Final = (1 << 31) - 1
STREAM_MAX: Final = (1 << 31) - 1
DEFAULT_WINDOW: Final = (1 << 16) - 1
DEFAULT_FRAME: Final = 1 << 14
HEAD: Final = struct.Struct(">HBBBI")  # the first two are the size
BLOCKS_MAX: Final = 100
KNOWN_BYTES_MAX: Final = 1 << 10  # of a block that is remembered: a client may have ten thousand connections
UNMET_STREAMS: Final = 100  # until the peer's limit is known: the least that RFC 9113 (6.5.2) recommends
NO_TABLE: Final = b"\x20"  # first in the first block: nothing that we write is to be remembered (RFC 7541, 6.3)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frame_head(kind, flags, stream, len(payload)) + payload


def frame_head(kind: int, flags: int, stream: int, size: int) -> bytes:
    return HEAD.pack(size >> 8, size & 255, kind, flags, stream)


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


def window_update(size: int) -> bytes:
    """Of the connection's window."""
    return frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4, "big"))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    if len(payload) % 6:
        raise Broken("SETTINGS of a broken size")
    return struct.iter_unpack(">HI", payload)


def number(payload: bytes) -> int:
    """The only number, of 31 bits, of a frame that consists of it."""
    if len(payload) != 4:
        raise Broken("a frame of a wrong size")
    return int.from_bytes(payload, "big") & WINDOW_MAX


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without its padding and priority (a flag that DATA has not)."""
    begin, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise Broken("a padded frame without padding")
        begin, end = 1, end - payload[0]
    if flags & WITH_PRIORITY:
        begin += 5
    if begin > end:
        raise Broken("more padding than frame")
    return payload[begin:end]


def literal(name: bytes, value: bytes) -> bytes:
    """A header that enters no table."""
    return b"\0" + text(name) + text(value)


def text(value: bytes) -> bytes:
    """A string with its length before it (RFC 7541, 5.2)."""
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    encoded, size = bytearray((127,)), size - 127
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes((*encoded, size)) + value


class HeaderReader:
    """HPACK's decoder; a block that changed no table means the same when it comes again, and is then looked up."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=HEAD_BYTES_MAX)
        self._known: dict[bytes, dict[bytes, bytes]] = {}

    def read(self, block: bytes) -> dict[bytes, bytes]:
        """Names and values; of a name that comes twice the last value. Raises Broken."""
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._table()
        try:
            headers = dict(self._decoder.decode(block, raw=True))
        except Exception as error:  # hpack's own, and what a hostile block has it run into
            raise Broken(f"headers cannot be read: {str(error)[:200]}") from None
        if self._table() != before or len(self._known) >= BLOCKS_MAX:
            self._known.clear()
        elif len(block) <= KNOWN_BYTES_MAX:
            self._known[block] = headers
        return headers

    def _table(self) -> tuple[list[tuple[bytes, bytes]], int]:
        table = self._decoder.header_table
        return list(table.dynamic_entries), table.maxsize
