"""Shows what was analysed: report.html, report.md and the terminal's summary, from a run directory and nothing else."""

from loadproof.report.render import render

__all__ = ["render"]
