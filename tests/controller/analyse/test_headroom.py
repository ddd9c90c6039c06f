"""A run beside the load generator's own ceiling and floor: what is said of it, and when nothing is assumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadproof import analyse, report
from loadproof.analyse.headroom import Headroom
from loadproof.analyse.schema import Calibration
from tests.controller import synthetic


def analysed(directory: Path, calibration: dict[str, Any] | None, **load: Any) -> Any:
    known = None if calibration is None else Calibration.model_validate(calibration)
    return analyse.run(synthetic.run(directory, of=synthetic.spec(**load)), {}, known)


def test_a_run_far_from_ceiling_and_floor_has_shares_and_no_reason(tmp_path: Path) -> None:
    result = analysed(tmp_path, synthetic.calibration())
    state = result.generator
    busiest_rps = result.throughput_rps / 2
    assert state.ceiling_share == pytest.approx(busiest_rps / 10_000)
    assert state.floor_share == pytest.approx(0.2 / result.latency_ms.p50)
    assert 0 < state.ceiling_share_low < state.ceiling_share and state.floor_share_low < state.floor_share
    assert result.verdict == "VALID" and not any("ceiling" in note for note in result.notes)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (None, "nothing was calibrated (cure: loadproof doctor --calibrate)"),
        (synthetic.calibration(state="none", note="it was not calibrated", ways=[]), "it was not calibrated (cure"),
        (synthetic.calibration(1, 1e3, state="stale", note="since then has changed: hpack"), "hpack (cure"),
        (synthetic.calibration(1, 1e3, state="elsewhere", note=None), "its workers came from elsewhere."),
        (synthetic.calibration(1, 1e3, ways=[]), "nothing of this transport and protocol (cure"),
    ],
)
def test_without_a_calibration_that_holds_nothing_is_assumed_and_a_note_says_so(
    tmp_path: Path, calibration: dict[str, Any] | None, words: str
) -> None:
    result = analysed(tmp_path, calibration)
    assert Headroom(*(getattr(result.generator, name) for name in Headroom._fields)) == Headroom()
    assert result.verdict == "VALID"
    (note,) = [note for note in result.notes if "ceiling and floor" in note]
    assert words in note


def test_workers_from_elsewhere_are_not_held_to_this_machines_ceiling(tmp_path: Path) -> None:
    result = analysed(tmp_path, synthetic.calibration(1, 1e3), expect_workers=1)
    assert result.verdict == "VALID" and result.generator.ceiling_share is None
    assert any("its workers came from elsewhere." in note for note in result.notes)


def test_processes_beyond_the_cores_share_them(tmp_path: Path) -> None:
    two = analysed(tmp_path / "two", synthetic.calibration()).generator.ceiling_share
    one = analysed(tmp_path / "one", synthetic.calibration(threads=1)).generator.ceiling_share
    assert one == pytest.approx(2 * two)


def test_a_campaign_judges_its_runs_by_the_calibration_that_it_recorded(tmp_path: Path) -> None:
    synthetic.campaign(tmp_path, [("one", synthetic.make())])
    assert analyse.campaign(tmp_path).runs[0].verdict == "VALID"
    path = tmp_path / "campaign.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": synthetic.calibration(250)}))
    (run,) = analyse.campaign(tmp_path).runs
    assert [reason.code for reason in run.reasons] == ["near_ceiling"]
    report.render(tmp_path)
    share = f"{100 * (run.generator.ceiling_share or 0):.1f} % of its ceiling"
    assert share in (tmp_path / "report.html").read_text()
