"""What is known of the machine."""

from __future__ import annotations

import json

import pytest

from controller import environment


@pytest.mark.parametrize(
    ("version", "too_old"),
    [("2.2.9", True), ("1.8.0", True), ("2.4.0", False), ("2.10.1", False), ("3.0-dev4", False), (None, False)],
)
def test_versions_of_haproxy_are_compared_by_number(version: str | None, too_old: bool) -> None:
    assert environment.is_too_old(version) is too_old


def test_the_record_is_json_and_knows_this_machine() -> None:
    record = json.loads(json.dumps(environment.record()))
    assert record["threads"] >= record["usable_threads"] >= 1
    assert record["packages"]["openvino"] and record["haproxy"][0].isdigit()
