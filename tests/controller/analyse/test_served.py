"""What changed of the model that is served, in words."""

from __future__ import annotations

from typing import Any

import pytest

from loadproof import rundir
from loadproof.analyse import served

NOTHING = rundir.SAMPLES.empty_table()
X = {"name": "x", "datatype": "FP32", "shape": [-1, 8]}
ONE = {"metadata": {"versions": ["1"], "inputs": [X]}, "status": {"1": {"state": "AVAILABLE"}}}


def told(before: Any, after: Any) -> list[str]:
    return served.changes({"server": {"served": [before, after]}}, NOTHING)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (ONE, []),
        ({**ONE, "status": None}, []),  # it no longer tells
        (
            {**ONE, "metadata": {"versions": ["1", "2"], "inputs": [X | {"shape": [1, 8]}]}},
            ["its metadata.versions went from 1 to 1, 2", "its metadata.inputs.x.shape went from -1, 8 to 1, 8"],
        ),
        ({**ONE, "status": {}}, ["its status.1.state went from AVAILABLE to nothing"]),
    ],
)
def test_each_thing_that_changed_is_told_by_its_place(after: Any, words: list[str]) -> None:
    assert told(ONE, after) == words


def test_of_many_changes_the_first_are_told_and_the_others_counted() -> None:
    found = told({"metadata": {str(n): n for n in range(9)}}, {"metadata": {}})
    assert len(found) == served.TOLD_MAX + 1 and found[-1] == "and 5 more of its metadata"
