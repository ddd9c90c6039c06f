"""The plan: a TOML file, checked whole, resolved into the runs of a campaign."""

from loadproof.plan.model import Plan, Run
from loadproof.plan.resolve import read, resolve
from loadproof.plan.server import Server

__all__ = ["Plan", "Run", "Server", "read", "resolve"]
