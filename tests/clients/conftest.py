"""Runs of the load programs, ended with the module that asked for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients.load_run import WAYS, Run


@pytest.fixture(scope="module")
def new_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    with contextlib.ExitStack() as stack:

        def make(protocol: str, server: list[str], load: dict[str, Any], measure: dict[str, Any], **other: str) -> Run:
            run = Run(tmp_path_factory.mktemp(protocol), protocol, server, load, measure, **other)
            stack.callback(run.close)
            return run

        yield make


@pytest.fixture(scope="module")
def both(new_run: Callable[..., Run]) -> Callable[..., list[Run]]:
    """A run of each of WAYS, to be run side by side: most of their time they wait for T0."""

    def make(server: list[str], load: dict[str, Any], measure: dict[str, Any]) -> list[Run]:
        return [new_run(way[0], server, {**load, "transport": way[1]}, measure) for way in WAYS]

    return make
