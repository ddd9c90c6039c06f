"""HTTP/2's frames (RFC 9113) as bytes, and the header blocks (HPACK, RFC 7541) that gRPC's answers need."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, TypeVar

import hpack

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM: Final = 11
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 1, 3, 4, 5, 6
OF_CONNECTION: Final = frozenset((SETTINGS, PING, GOAWAY))
OF_STREAM: Final = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION, PUSH_PROMISE))
MAX_WINDOW: Final = (1 << 31) - 1
DEFAULT_WINDOW: Final = (1 << 16) - 1
DEFAULT_FRAME: Final = 1 << 14
DEFAULT_TABLE: Final = 1 << 12

Bytes = TypeVar("Bytes", bytes, memoryview)
TableState = tuple[int, tuple[bytes, bytes] | None, int]  # number of entries, the newest entry, and the maximum size

_KNOWN_BYTES: Final = 1 << 10  # the largest header block that is cached
_HEAD: Final = struct.Struct(">HBBBI")


class Http2Error(Exception):
    """A connection error, with its HTTP/2 error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frame_head(kind, flags, stream, len(payload)) + payload


def frame_head(kind: int, flags: int, stream: int, size: int) -> bytes:
    return _HEAD.pack(size >> 8, size & 255, kind, flags, stream)


def read_head(data: bytearray | memoryview, position: int = 0) -> tuple[int, int, int, int]:
    """The payload's size, the kind, the flags and the stream of the frame whose head begins at `position`."""
    size, low, kind, flags, stream = _HEAD.unpack_from(data, position)
    return size << 8 | low, kind, flags, stream & MAX_WINDOW


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(last: int, code: int, message: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + message.encode())


def widen_connection(more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", more))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    if len(payload) % 6:
        raise Http2Error(FRAME_SIZE_ERROR, "SETTINGS of a broken size")
    return struct.iter_unpack(">HI", payload)


def number(payload: bytes, size: int = 4) -> int:
    """The payload as a number, of a frame that consists of one."""
    if len(payload) != size:
        raise Http2Error(FRAME_SIZE_ERROR, "a frame of a wrong size")
    return int.from_bytes(payload, "big")


def unpadded(flags: int, payload: Bytes) -> Bytes:
    """The payload of DATA or HEADERS without its padding and priority."""
    begin, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise Http2Error(PROTOCOL_ERROR, "a padded frame without padding")
        begin, end = 1, end - payload[0]
    if flags & WITH_PRIORITY:
        begin += 5
    if begin > end:
        raise Http2Error(PROTOCOL_ERROR, "more padding than frame")
    return payload[begin:end] if (begin, end) != (0, len(payload)) else payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is not indexed; the name has fewer than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    if size < 127:
        return bytes([size])
    encoded, size = bytearray([127]), size - 127
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes([*encoded, size])


class HeaderReader:
    """HPACK's decoder with a cache: a block that changed no table has the same headers when it comes again."""

    def __init__(self, max_bytes: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_bytes)
        self._known: dict[bytes, dict[bytes, bytes]] = {}

    def read(self, block: bytes) -> dict[bytes, bytes]:
        """Names and values; where a name is repeated, its last value."""
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._state()
        try:
            headers = dict(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise Http2Error(ENHANCE_YOUR_CALM, "headers are too large") from None
        except hpack.HPACKError:
            raise Http2Error(COMPRESSION_ERROR, "headers cannot be read") from None
        if not _same(before, self._state()) or len(self._known) > 100:
            self._known.clear()
        elif len(block) <= _KNOWN_BYTES:
            self._known[block] = headers
        return headers

    def _state(self) -> TableState:
        """Differs once the table has changed: the newest entry is kept alive, so a new entry is another object."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return len(entries), entries[0] if entries else None, table.maxsize


def _same(before: TableState, now: TableState) -> bool:
    return before[0] == now[0] and before[1] is now[1] and before[2] == now[2]
