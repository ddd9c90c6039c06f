"""benchmark_app gets the server's settings in its own words, and its report is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadproof.launch import ceiling
from loadproof.models import Model
from loadproof.plan import Run


def model(directory: Path) -> Model:
    (directory / "1").mkdir(parents=True)
    for name in ("model.bin", "model.xml"):
        (directory / "1" / name).touch()
    facts = {"name": "m", "description": "", "source": {}, "licence": "", "sha256": "", "size_bytes": 0}
    return Model.model_validate({**facts, "directory": directory})


def given(tmp_path: Path, **server: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """The flags by name, and the properties of the file that one of them names."""
    load = {"batch": 4, "shapes": {"x": [4, 3, 8, 8], "y": [4]}}
    run = Run.model_validate(
        {"name": "r", "repeat": 1, "server": {"model": "m", **server}, "load": load, "measure": {"duration_s": 1.5}}
    )
    words = ceiling.flags(run, model(tmp_path / "m"), tmp_path)
    flags = dict(zip(words[:-1:2], words[1::2], strict=True))
    return flags, json.loads(Path(flags["-load_config"]).read_text())


def test_the_servers_properties_go_as_they_are(tmp_path: Path) -> None:
    flags, properties = given(tmp_path, streams=2, threads=2, precision="f32", nireq=3)
    assert properties == {"CPU": {"NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2", "INFERENCE_PRECISION_HINT": "f32"}}
    assert flags["-nireq"] == "3" and flags["-data_shape"] == "x[4,3,8,8],y[4]" and flags["-t"] == "2"
    assert flags["-m"].endswith("m/1/model.xml") and flags["-hint"] == "none"


def test_the_servers_default_hint_is_told_since_benchmark_app_has_another(tmp_path: Path) -> None:
    flags, properties = given(tmp_path, threads=1)
    assert (
        properties == {"CPU": {"INFERENCE_NUM_THREADS": "1", "PERFORMANCE_HINT": "LATENCY"}} and "-nireq" not in flags
    )


def test_inferences_are_iterations_times_the_batch() -> None:
    """A report of OpenVINO 2026.4.1 for a batch of 2, of which it said `batch size 1`."""
    results = {
        "total execution time (ms)": "1001.26",
        "total number of iterations": "1107",
        "latency (ms)": "0.82",
        "avg latency": "0.85",
        "min latency": "0.75",
        "max latency": "2.36",
        "throughput": "1105.61",
    }
    setup = {"batch size": "1", "number of parallel infer requests": "1"}
    read = ceiling.read({"execution_results": results, "configuration_setup": setup}, batch=2)
    assert read["throughput_ips"] == pytest.approx(2 * 1105.61, rel=1e-4)
    assert read["latency_ms"] == {"mean": 0.85, "p50": 0.82, "min": 0.75, "max": 2.36} and read["nireq"] == 1
