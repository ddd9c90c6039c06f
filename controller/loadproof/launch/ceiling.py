"""The ceiling: OpenVINO's own benchmark_app, in a process of its own, with a run's model, settings and shapes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from loadproof.launch.child import Child
from loadproof.models import Model
from loadproof.models.convert import model_in
from loadproof.plan import Run

APP: Final = "from openvino.tools.benchmark.main import main; main()"  # the wheel's entry point; it has no `-m`
CONFIG: Final = "benchmark_config.json"
REPORT: Final = "benchmark_report.json"
SPARE_S: Final = 300  # to read and compile the model


def measure(run: Run, model: Model, folder: Path, log: Path) -> dict[str, Any]:
    """Inferences a second and latency in ms in process, or `{"error": ...}`: a run is worth having without it.

    It lasts as long as the run's window, at least a second; infer requests are kept busy, so that it is what the
    settings can do at most, whatever the load. `folder` is where its report may lie meanwhile.
    """
    command = [sys.executable, "-c", APP, *flags(run, model, folder)]
    with Child("benchmark_app", command, log) as child:
        try:
            code = child.popen.wait(run.measure.duration_s + SPARE_S)
        except subprocess.TimeoutExpired:
            return {"error": f"benchmark_app did not end; its log is {log.name}"}
        if code:
            lines = [line for line in child.tail().splitlines() if "ERROR" in line] or [f"exit code {code}"]
            return {"error": f"benchmark_app: {lines[-1]}"}
    try:
        return read(json.loads((folder / REPORT).read_text()), run.load.inferences)
    except (OSError, ValueError, KeyError) as error:
        return {"error": f"benchmark_app's report cannot be read: {error!r}"}


def flags(run: Run, model: Model, folder: Path) -> list[str]:
    """What the server is started with, in benchmark_app's words; its properties go as they are, through a file.

    Its own flags for them exclude each other where the server's do not, and have other defaults.
    """
    server, version = run.server, model.directory / str(model.version)
    properties = server.plugin_config()
    if not server.hint and not server.streams:
        properties["PERFORMANCE_HINT"] = "LATENCY"  # the server's default, which is OVMS's
    (folder / CONFIG).write_text(json.dumps({server.device: properties}))
    shapes = ",".join(f"{name}[{','.join(map(str, shape))}]" for name, shape in run.load.shapes.items())
    wanted = {
        "-m": model_in(version),
        "-d": server.device,
        "-api": "async",
        "-hint": "none",  # what the file says
        "-load_config": folder / CONFIG,
        "-nireq": server.nireq,
        "-data_shape": shapes,
        "-t": max(1, math.ceil(run.measure.duration_s)),
        "-report_type": "no_counters",
        "-report_folder": folder,
    }
    return [*(str(word) for key, value in wanted.items() if value for word in (key, value)), "-json_stats"]


def read(report: dict[str, Any], batch: int) -> dict[str, Any]:
    """The figures of benchmark_app's JSON report; ValueError or KeyError where it has none.

    Inferences are counted here: it takes the batch from the layout, which a model need not have.
    """
    results, setup = report["execution_results"], report["configuration_setup"]
    latency = {"mean": "avg latency", "p50": "latency (ms)", "min": "min latency", "max": "max latency"}
    iterations, duration_s = (
        int(results["total number of iterations"]),
        float(results["total execution time (ms)"]) / 1000,
    )
    return {
        "throughput_ips": iterations * batch / duration_s,
        "latency_ms": {name: float(results[key]) for name, key in latency.items()},
        "iterations": iterations,
        "duration_s": duration_s,
        "nireq": int(setup["number of parallel infer requests"]),
    }
