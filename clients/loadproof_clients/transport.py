"""What a client of any API and protocol gives the load: it connects, sends prepared payloads and reports events.

The events of a request are sent, first byte, each piece of the answer, and its end or failure, each with its time. An
Exchange collects them; where a library hands over whole answers, first byte and pieces stay unknown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, Self

from loadproof_clients.records import OK, UNKNOWN_NS, UNREADABLE
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import Tensors

MESSAGE_MAX: Final = 500  # characters of a message, which may be the server's own


class Failure(Exception):
    """There is no readable answer; `status` is that of records."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message[:MESSAGE_MAX])
        self.status = status


class MetadataFailed(Exception):
    """The server did not describe the model's inputs; one clear line."""

    def __init__(self, message: str) -> None:
        super().__init__(message[:MESSAGE_MAX])


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Around what decodes an answer: whatever it raises means that the answer is UNREADABLE.

    No list of exceptions is complete: a hostile answer had json raise RecursionError, tritonclient AttributeError.
    """
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        raise Failure(UNREADABLE, f"{type(error).__name__}: {error}") from None


class Exchange:
    """One request and its events, in monotonic ns.

    `first_byte_ns` is when the answer's first byte came, its headers included: UNKNOWN_NS where none came or the
    library hides it. `pieces` are the parts of the body as reads of the socket brought them, and `piece_ns` their
    times; empty where the library hides them. `received_ns` is the end, or the moment the failure was known. `answer`
    is what Client.tensors reads where `status` (of records) is OK; else `message` says why.
    """

    __slots__ = ("answer", "first_byte_ns", "message", "piece_ns", "pieces", "received_ns", "sent_ns", "status")

    def __init__(self, sent_ns: int = 0) -> None:
        self.sent_ns, self.first_byte_ns, self.received_ns = sent_ns, UNKNOWN_NS, 0
        self.pieces: list[bytes] = []
        self.piece_ns: list[int] = []
        self.status = OK
        self.message = ""
        self.answer: Any = None

    def ended(self, received_ns: int, answer: Any) -> Self:
        """The whole answer is there."""
        self.received_ns, self.answer = received_ns, answer
        return self

    def failed(self, received_ns: int, status: int, message: str) -> Self:
        """There will be no whole answer."""
        self.received_ns, self.status, self.message = received_ns, status, message
        return self


Done = Callable[[Any], None]  # called with the Exchange of a request of the open loop once it has ended


class Client(Protocol):
    """One client with connections of its own: `infer` sends one request at a time, `start` any number.

    The loop that runs it is gevent's. A class of this kind is a row of `transports.CLIENTS`.
    """

    def __init__(self, spec: LoadSpec, encoded: Sequence[Any]) -> None:
        """`encoded` is what `encode` made of each payload; it is shared by all clients of the process."""

    @classmethod
    def encode(cls, spec: LoadSpec, payload: Tensors) -> Any:
        """The payload as it will be sent: done once, before the load starts."""

    @property
    def connections(self) -> int:
        """TCP connections now open."""

    @property
    def held(self) -> int:
        """Requests so far that waited because the server's limit of streams was reached; 0 where it is not known."""

    def connect(self, timeout_s: float) -> None:
        """Connects and asks whether the server is ready, without an inference; raises Failure."""

    def infer(self, payload: int, request_id: str) -> Exchange:
        """Sends payload number `payload` and waits for its end, at most load.timeout_s. At most one at a time."""

    def start(self, payload: int, request_id: str, done: Done) -> None:
        """Sends payload number `payload` and does not wait: `done` is called once, within load.timeout_s."""

    def content(self, answer: Any) -> Any:
        """A key of the answer: equal keys mean equal tensors. None where the library does not show the bytes."""

    def tensors(self, answer: Any) -> Tensors:
        """The outputs of an exchange's `answer`; raises Failure where they cannot be read. Not timed."""

    def abort(self) -> None:
        """Gives up what is in flight, if anything: it fails with TIMEOUT; nothing can be sent after."""

    def close(self) -> None:
        """Closes the connections."""
