"""The campaign's token, by which master and workers know each other: where a process of the load gets it.

A process that the controller starts reads it from its standard input; one that joins by `loadproof worker` from a file,
which is read again for each run, or from the environment. There is no default.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "LOADPROOF_TOKEN"
LENGTH_MIN: Final = 16
LENGTH_MAX: Final = 1024


class NoToken(Exception):
    """There is no token, or what is there cannot be one; one clear line, and where it helps a second with the cure."""


def of_stdin() -> bytes:
    """The first line of standard input."""
    return _checked(sys.stdin.buffer.readline(LENGTH_MAX + 2), "standard input")


def of_joining(file: Path | None) -> bytes:
    """Of `file`, or else of the environment."""
    if file is None:
        require(file)
        return _checked(os.environb[VARIABLE.encode()], VARIABLE)
    try:
        with file.open("rb") as opened:
            return _checked(opened.read(LENGTH_MAX + 2), str(file))
    except OSError as error:
        raise NoToken(f"--token-file {file}: {error.strerror}; the controller writes it before a run begins") from None


def require(file: Path | None) -> None:
    """Raises NoToken where `of_joining` will have nothing to read."""
    if file is None and not os.environ.get(VARIABLE, "").strip():
        raise NoToken(
            f"a worker needs the campaign's token\n  set {VARIABLE} as in the command that `loadproof run --listen` "
            "prints, or give --token-file"
        )


def _checked(text: bytes, where: str) -> bytes:
    token = text.strip()
    if not LENGTH_MIN <= len(token) <= LENGTH_MAX:
        raise NoToken(f"{where}: a token has {LENGTH_MIN} to {LENGTH_MAX} characters, and this one {len(token)}")
    return token
