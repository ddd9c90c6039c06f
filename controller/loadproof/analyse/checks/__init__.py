"""The verdict on a run: a closed table of reasons (`table`), and by theme what makes each of them fire."""

from loadproof.analyse.checks.table import REASONS, Blame, Reason, disturbances, judge

__all__ = ["REASONS", "Blame", "Reason", "disturbances", "judge"]
