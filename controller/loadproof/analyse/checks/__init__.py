"""The verdict on a run: a closed table of reasons (`table`), and by theme what makes each of them fire."""

from loadproof.analyse.checks.table import REASONS, Reason, Severity, Verdict, judge

__all__ = ["REASONS", "Reason", "Severity", "Verdict", "judge"]
