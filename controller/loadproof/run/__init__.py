"""One run, online: what is launched, followed and seen, until its run directory is written."""

from loadproof.run.online import measure

__all__ = ["measure"]
