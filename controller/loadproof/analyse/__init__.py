"""From a run directory to figures, reasons and a verdict: pure functions of what was recorded.

`campaign` is what the rest of the controller uses; `schema` has the types of what it gives, `run_summary` the figures,
`checks` the table of reasons.
"""

from loadproof.analyse.campaign_summary import answering, campaign, exit_code, next_settings, read, repeats
from loadproof.analyse.run_summary import metrics, run, slo
from loadproof.analyse.schema import RunSummary, Summary

__all__ = [
    "RunSummary",
    "Summary",
    "answering",
    "campaign",
    "exit_code",
    "metrics",
    "next_settings",
    "read",
    "repeats",
    "run",
    "slo",
]
