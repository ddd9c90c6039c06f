"""What ends a command early, and the exit codes of `loadproof` (this is the one place that lists them)."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `loadproof run`; `compare` uses 0 to 4 of them, the other commands 0, 1 and 2."""

    GOOD = 0  # every run is VALID or FLAGGED
    ERROR = 1  # something did not start or broke
    USAGE = 2  # a bad plan or bad usage: nothing was started
    GATE = 3  # an SLO or gate failed
    INVALID = 4  # the figures of at least one run cannot be trusted
    INTERRUPTED = 130


class LoadproofError(Exception):
    """One line for the user that says what is wrong and what to do; `detail` holds the log's tail that explains it."""

    exit_code = Exit.ERROR

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class UsageError(LoadproofError):
    """What was asked for makes no sense, and nothing was done."""

    exit_code = Exit.USAGE


class PlanError(UsageError):
    """A plan with mistakes: all of them, a line each."""

    def __init__(self, where: str, mistakes: list[str]) -> None:
        count = "one mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{where}: {count}")
        self.mistakes = mistakes
        self.detail = "\n".join(f"  {mistake}" for mistake in mistakes)
