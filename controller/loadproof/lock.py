"""The lock of a campaign's directory: one process at a time writes into it.

It is flock(2) on a file in the directory: taken atomically, and released by the kernel when the process ends, however
it ends. A file that a killed process left behind therefore locks nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadproof.errors import LoadproofError

NAME: Final = ".loadproof.lock"
TELL_S: Final = 1.0  # the holder writes who it is right after it has taken the lock


@contextlib.contextmanager
def claim(directory: Path, option: str) -> Iterator[None]:
    """The lock of a directory that is new or empty, which is made; LoadproofError where it is neither, or is held.

    `option` is named in the message. A directory that this process made, and in which nothing was written, is gone
    afterwards; one that another comer made at the same moment stays, empty.
    """
    where, made = f"{option} {directory}", not directory.exists()
    if not made and not directory.is_dir():
        raise LoadproofError(f"{where}: is no directory; give a new or empty one")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        _require_empty(directory, where, held=False)
        with hold(directory, option):
            _require_empty(directory, where, held=True)
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                directory.rmdir()


@contextlib.contextmanager
def hold(directory: Path, option: str) -> Iterator[None]:
    """The lock of a directory that exists; LoadproofError with its holder's pid, host and time where it is held."""
    descriptor = _take(directory / NAME, f"{option} {directory}")
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(_ourselves()) + "\n").encode(), 0)
        yield
    finally:
        # While it is still held: whoever has opened it meanwhile finds that it is gone, and makes a new one.
        with contextlib.suppress(OSError):
            if _is(descriptor, directory / NAME):
                (directory / NAME).unlink()
        os.close(descriptor)


def _require_empty(directory: Path, where: str, held: bool) -> None:
    """Before it is held, one with a lock's file passes: who holds it, if anybody does, is the better answer."""
    names = {path.name for path in directory.iterdir()}
    if names - {NAME} and (held or NAME not in names):
        raise LoadproofError(f"{where}: has something in it already; give a new or empty directory")


def _take(path: Path, where: str) -> int:
    """The descriptor of the locked file that has the name `path`; child processes do not inherit it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(descriptor, path):
                return descriptor
        except BlockingIOError:
            message = f"{where}: {_holder(descriptor)} is measuring there; let it end, or give another directory"
            os.close(descriptor)
            raise LoadproofError(message) from None
        except OSError as error:  # a file system without locks
            os.close(descriptor)
            raise OSError(error.errno, error.strerror, str(path)) from error
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    """False where the file was removed, and perhaps made again, since it was opened."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)


def _ourselves() -> dict[str, object]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _holder(descriptor: int) -> str:
    """Who holds it, as it wrote into the file; it may not have come to that yet."""
    deadline_s = time.monotonic() + TELL_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(os.pread(descriptor, 4096, 0))
            return f"process {told['pid']} on {told['host']}, since {told['since']},"
        time.sleep(0.02)
    return "another process"
