"""The `loadproof` command: every end of it is an exit code of loadproof/errors.py, and every error one clear line.

Nothing but the standard library is imported before signals and errors are taken care of: what the subcommands need
takes a second to import, in which a user may press Ctrl-C, and does not fit into every limit of memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

from loadproof.errors import Exit, LoadproofError

# What the loader says where the limit of the address space (`ulimit -v`) leaves no room for a library.
_NO_ROOM: Final = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")
_signalled: list[int] = []


def main() -> None:
    """The console script."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # ignored: the wish of nohup (SIGHUP), or of a shell that runs a script's job in the background (SIGINT)
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        with _one_line():
            from loadproof.commands.app import app

            app(standalone_mode=True)
    except BaseException as error:
        # a signal during an import may come out of it as any error
        if _signalled and not isinstance(error, SystemExit):
            _leave(Exit.INTERRUPTED)
        if isinstance(error, SystemExit) and isinstance(error.code, int | None):
            code = error.code or Exit.GOOD
            _leave(Exit.INTERRUPTED if _signalled and code == Exit.ERROR else code)
        raise


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _signalled.append(number)
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What a user can do something about ends the program with a line that says what is wrong, and the exit code."""
    try:
        yield
    except LoadproofError as error:
        _complain(str(error), error.detail)
        sys.exit(error.exit_code)
    except MemoryError as error:
        _complain(f"no memory is left{_said(error)}; see `ulimit -v` and what else runs")
        sys.exit(Exit.ERROR)
    except ImportError as error:
        if _signalled or not any(text in str(error) for text in _NO_ROOM):
            raise
        _complain(f"no memory is left to load Loadproof{_said(error)}; see `ulimit -v` and what else runs")
        sys.exit(Exit.ERROR)
    except OSError as error:  # of the disk, mostly: programs and networks have errors of their own
        if error.errno == errno.EPIPE:
            sys.exit(Exit.ERROR)
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}; see that there is room and permission")
        sys.exit(Exit.ERROR)


def _said(error: BaseException) -> str:
    return f" ({str(error).splitlines()[0]})" if str(error) else ""


def _complain(message: str, detail: str = "") -> None:
    """On a terminal in colours; plain where there is no memory for them."""
    try:
        from rich.console import Console
        from rich.markup import escape

        from loadproof import escapes

        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        errors.print(f"[bold red]error:[/] {escape(escapes.terminal(message))}")
        if detail:
            errors.print(escapes.terminal(detail), markup=False, style="dim")
    except (ImportError, MemoryError):
        print(f"error: {message}", file=sys.stderr)


def _leave(code: int) -> None:
    """Ends the program with this code, also where nobody reads any more what it has still to say.

    Everything is saved and stopped: one more Ctrl-C has nothing to end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    sys.exit(code)
