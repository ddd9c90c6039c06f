"""Locust's web UI during a run, to watch: it can neither start, stop nor reset anything."""

from __future__ import annotations

import sys
from typing import Any

import gevent
from locust.stats import stats_history


def serve(environment: Any, port: int) -> None:
    """Serves it on 127.0.0.1:`port` from now on. Its percentiles are Locust's own rounded ones: for watching only."""
    del sys.argv[1:]  # the UI parses the command line again, as Locust's
    ui = environment.create_web_ui(host="127.0.0.1", port=port, delayed_start=True)
    ui.app.before_request(_refuse_changes)
    ui.start()
    gevent.spawn(stats_history, environment.runner)


def _refuse_changes() -> tuple[str, int] | None:
    from flask import request

    if request.method in ("GET", "HEAD", "OPTIONS"):
        return None
    return "this run is driven by its plan: watch only\n", 405
