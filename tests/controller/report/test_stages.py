"""The waterfall shows each sampled request from its due time to its answer."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import pytest

from loadproof.analyse.population import Records
from loadproof.analyse.waterfall import waterfall
from loadproof.report import stages
from tests.controller import synthetic


@pytest.mark.parametrize("via", ["balancer", "direct"])
@pytest.mark.parametrize("arrivals", ["closed", "poisson"])
def test_the_bars_of_a_request_add_up_to_its_latency(tmp_path: Path, via: str, arrivals: str) -> None:
    rate = {"rate_rps": 200} if arrivals == "poisson" else {}
    synthetic.run(tmp_path, of=synthetic.spec(via=via, arrivals=arrivals, **rate))
    records = Records(tmp_path, is_open=arrivals != "closed")
    sample = waterfall(tmp_path, records, records.measured & records.good, synthetic.T0_US)
    figure = go.Figure(stages.waterfall(sample, 560))
    sums = [sum(bar.x[number] for bar in figure.data) for number in range(len(sample))]
    assert sums == pytest.approx([one["stamps_ms"][-1] for one in sample], rel=1e-3)
    names = [bar.name for bar in figure.data]
    assert ("late" in names) == (arrivals != "closed")
    assert ("balancer to client" in names) == (via == "balancer")
    assert figure.layout.yaxis.ticktext[0] == "fastest" and figure.layout.yaxis.ticktext[-1] == "slowest"


def test_a_single_request_is_a_chart_too(tmp_path: Path) -> None:
    assert go.Figure(stages.waterfall([{"id": "a", "percentile": 100.0, "stamps_ms": [0.0, 5.0]}], 560)).data[0].x == (
        5.0,
    )
