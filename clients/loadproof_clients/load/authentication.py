"""Which frames at the master's port are taken: its workers'. What is dropped is counted and noted in the run."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import gevent

from loadproof_clients.load import seal
from loadproof_clients.load.seal import TO_MASTER, TO_WORKER, Forged, Seal

DROPS_AT_ONCE: Final = 20
DROPS_PAUSE_S: Final = 0.01  # after so many drops: a flood costs a part of a core, and the others get their turn
REASONS_MAX: Final = 8
LOG_PERIOD_S: Final = 10.0
# A worker reports twice a second, ships up to 80 chunks, and answers each part of 4 MiB and each of 32 pings.
MESSAGES_RPS_MAX: Final = 500
MESSAGES_AT_ONCE: Final = 2000

log = logging.getLogger("loadproof.authentication")


class Excluded(Exception):
    """A message of a worker that is excluded: nothing more is taken from it."""


class Dropped:
    """What was dropped, by why; a line in the log now and then; and a pause where it is a flood."""

    def __init__(self) -> None:
        self.strangers = 0
        self.malformed: Counter[str] = Counter()  # of messages that were authentic, by what is wrong with them
        self._until_pause = DROPS_AT_ONCE
        self._logged_s = float("-inf")

    def stranger(self) -> None:
        """A message of one who does not have the token, or one that came before."""
        self.strangers += 1
        self._log("it does not come from this campaign")
        self.pause()

    def bad(self, why: str) -> None:
        """A message of one who has the token that is none of those that there are."""
        self.malformed[why if why in self.malformed or len(self.malformed) < REASONS_MAX else "and others"] += 1
        self._log(why)
        self.pause()

    def pause(self) -> None:
        """Now and then, where many are dropped."""
        self._until_pause -= 1
        if not self._until_pause:
            self._until_pause = DROPS_AT_ONCE
            gevent.sleep(DROPS_PAUSE_S)

    def _log(self, why: str) -> None:
        if (now_s := time.monotonic()) - self._logged_s > LOG_PERIOD_S:
            log.warning("dropped a message: %s (%d until now)", why, self.strangers + self.malformed.total())
            self._logged_s = now_s

    def notes(self) -> list[str]:
        """Sentences about it for the reader of the run."""
        said = []
        if self.strangers:
            some = "1 message" if self.strangers == 1 else f"{self.strangers:,} messages"
            said.append(f"The master dropped {some} that did not come from its workers.")
        if count := self.malformed.total():
            some = "1 message" if count == 1 else f"{count:,} messages"
            said.append(f"The master dropped {some} of its workers that cannot be: {'; '.join(self.malformed)}.")
        return said


class Rate:
    """Whether a worker keeps within MESSAGES_RPS_MAX, in the long run."""

    def __init__(self) -> None:
        self._left = float(MESSAGES_AT_ONCE)
        self._at_s = time.monotonic()

    def takes(self) -> bool:
        """One more message, now."""
        now_s = time.monotonic()
        self._left = min(MESSAGES_AT_ONCE, self._left + (now_s - self._at_s) * MESSAGES_RPS_MAX) - 1
        self._at_s = now_s
        return self._left >= 0


class Authenticator:
    """`on_flood` is called with the identity of a worker that sends too much; nothing more of it comes in."""

    def __init__(self, token: bytes) -> None:
        self.dropped = Dropped()
        self.on_flood: Callable[[str], None] = lambda identity: None
        self._token = token
        self._nonce = seal.fresh_nonce()
        self._in: dict[bytes, tuple[Seal, Rate]] = {}
        self._out: dict[bytes, Seal] = {}
        self._kept_out: set[bytes] = set()

    def keep_out(self, identity: str) -> None:
        """Nothing is taken of this worker any more."""
        self._kept_out.add(identity.encode())

    def answer(self, identity: bytes, frame: bytes) -> tuple[bytes, bool]:
        """What answers a worker's first frame, and whether it has the token; raises Forged.

        One without it is answered too: so it learns at once that it has another.
        """
        asked, has_token = seal.read_ask(self._token, identity, frame)
        return seal.tell(self._token, identity, asked, self._nonce), has_token

    def sealed(self, identity: bytes, body: bytes) -> bytes:
        """The frame for a worker."""
        if identity not in self._out:
            self._out[identity] = Seal(self._token, self._nonce, identity, TO_WORKER)
        return self._out[identity].seal(body)

    def verified(self, identity: bytes, frame: bytes) -> bytes:
        """The body of a worker's frame; raises Forged or Excluded. Only an authentic one leaves something here."""
        if identity in self._kept_out:
            raise Excluded
        if (known := self._in.get(identity)) is None:
            if len(frame) > seal.FIRST_BYTES_MAX:
                raise Forged
            known = Seal(self._token, self._nonce, identity, TO_MASTER), Rate()
            body = known[0].open(frame)
            self._in[identity] = known
            return body
        body = known[0].open(frame)
        if not known[1].takes():
            self._kept_out.add(identity)
            self.on_flood(identity.decode())
            raise Excluded
        return body
