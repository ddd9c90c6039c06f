"""From a run directory to figures, reasons and a verdict: pure functions of what was recorded.

`campaign` is what the rest of the controller uses; `summary` has the figures, `checks` the table of reasons.
"""

from loadproof.analyse.summary import answering, campaign, exit_code, metrics, next_settings, run, slo, spread

__all__ = ["answering", "campaign", "exit_code", "metrics", "next_settings", "run", "slo", "spread"]
