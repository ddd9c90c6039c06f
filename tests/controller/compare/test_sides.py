"""Which runs are alike, and what may not differ around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadproof.compare import comparison, sides
from loadproof.errors import UsageError
from loadproof.rundir import RunDirectoryError
from tests.controller import synthetic
from tests.controller.compare import campaigns


def test_a_side_is_a_campaign_or_a_directory_of_campaigns(tmp_path: Path) -> None:
    for seed in (1, 2):
        campaigns.repeats(tmp_path / f"all/{seed}", seed, count=1)
    alone = sides.read(tmp_path / "all/1")
    both = sides.read(tmp_path / "all")
    assert [len(alone.runs), len(both.runs)] == [1, 2]
    assert len(sides.by_spec(both)) == 1


def test_a_directory_without_campaigns_is_told_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match=r"no campaign.json in it or one level below"):
        sides.read(tmp_path / "empty")
    with pytest.raises(RunDirectoryError, match=r"no campaign.json there"):
        sides.read(tmp_path / "nowhere")


def test_runs_match_by_their_spec_whatever_their_names_and_order(tmp_path: Path) -> None:
    two, four = campaigns.made(1, clients=2), campaigns.made(2, clients=4)
    synthetic.campaign(
        tmp_path / "a", [("clients=2", two), ("clients=4", four), ("clients=8", campaigns.made(3, clients=8))]
    )
    synthetic.campaign(tmp_path / "b", [("4", four), ("2", two)])
    a, b = sides.read(tmp_path / "a"), sides.read(tmp_path / "b")
    alike = sides.match(a, b)
    assert [one.name for one in alike] == ["clients=2 / 2", "clients=4 / 4"]
    assert sides.unmatched(a, [one.before for one in alike]) == ["clients=8"]
    assert sides.unmatched(b, [one.after for one in alike]) == []


def test_where_the_server_listens_and_how_often_it_ran_are_no_part_of_the_match(tmp_path: Path) -> None:
    before, after = campaigns.made(1), campaigns.made(2)
    after.spec["server"]["address"] = "192.0.2.7:9000"
    after.spec["measure"]["repeats"] = 7
    after.spec["slo"] = {"p99_ms": 10.0}
    a, b = (sides.read(campaigns.campaign(tmp_path / name, [one])) for name, one in (("a", before), ("b", after)))
    assert len(sides.match(a, b)) == 1


def test_a_key_that_is_younger_than_the_run_counts_with_its_default(tmp_path: Path) -> None:
    old, new = campaigns.made(1), campaigns.made(2)
    new.spec["load"]["max_in_flight"] = 10_000
    a, b = (sides.read(campaigns.campaign(tmp_path / name, [one])) for name, one in (("a", old), ("b", new)))
    assert len(sides.match(a, b)) == 1


def test_runs_that_are_not_alike_are_refused_with_what_differs_and_the_option_that_allows_it(tmp_path: Path) -> None:
    old = sides.read(campaigns.campaign(tmp_path / "a", [campaigns.made(1, clients=2)]))
    new = sides.read(campaigns.campaign(tmp_path / "b", [campaigns.made(1, clients=4)]))
    with pytest.raises(
        UsageError, match=r"no run of .* is in .* as well; --across load.clients compares them"
    ) as caught:
        sides.match(old, new)
    assert caught.value.detail == "  load.clients: 2 | 4"
    assert caught.value.exit_code == 2
    assert len(sides.match(old, new, ["load.clients"])) == len(sides.match(old, new, ["load"])) == 1


def test_across_does_not_pool_what_differs_within_a_side(tmp_path: Path) -> None:
    mixed = sides.read(campaigns.campaign(tmp_path / "a", [campaigns.made(1, clients=2), campaigns.made(1, clients=4)]))
    with pytest.raises(UsageError, match=r"--across load.clients: .* has runs of its own that differ in it"):
        sides.match(mixed, mixed, ["load.clients"])


def another_machine(facts: dict[str, Any]) -> None:
    facts["environment"] |= {"cpu_model": "Other CPU @ 3 GHz", "kernel": "6.12.1"}
    facts["environment"]["packages"] |= {"openvino": "2026.5.0"}


def test_what_others_did_to_the_machine_follows_from_what_reasons_blame() -> None:
    assert {"other_load", "cpu_stolen"} == sides.BY_OTHERS


def test_another_machine_is_refused_and_another_version_is_only_told(tmp_path: Path) -> None:
    a = campaigns.repeats(tmp_path / "a", 1, count=1)
    b = campaigns.repeats(tmp_path / "b", 2, count=1, change=another_machine)
    rows = sides.differences(sides.read(a), sides.read(b))
    assert [(row.name, row.essential) for row in rows] == [("cpu_model", True), ("kernel", False), ("openvino", False)]
    with pytest.raises(UsageError, match=r"not measured on the same: cpu model differs; --force") as caught:
        comparison.compare([a, b])
    assert caught.value.detail == "  cpu_model: Example CPU @ 2.10GHz | Other CPU @ 3 GHz"
    assert len(comparison.compare([a, b], force=True)[0].pairs) == 1


def test_another_model_under_the_same_name_is_refused(tmp_path: Path) -> None:
    other = campaigns.made(2)
    other.facts["model"] = {**other.facts["model"], "sha256": "cd" * 32}
    a, b = campaigns.campaign(tmp_path / "a", [campaigns.made(1)]), campaigns.campaign(tmp_path / "b", [other])
    with pytest.raises(UsageError, match="model sha256 differs"):
        comparison.compare([a, b])


def test_what_an_old_campaign_did_not_record_is_no_reason_to_refuse(tmp_path: Path) -> None:
    def recorded(facts: dict[str, Any]) -> None:
        facts["environment"] |= {"governor": "performance", "microcode": "0x1"}

    a = sides.read(campaigns.repeats(tmp_path / "a", 1, count=1))
    b = sides.read(campaigns.repeats(tmp_path / "b", 2, count=1, change=recorded))
    assert [tuple(row) for row in sides.differences(a, b)] == [("governor", "—", "performance", False)]
