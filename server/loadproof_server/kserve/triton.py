"""Triton's extensions that perf_analyzer asks for: a model's configuration and statistics, and the index of models.

As dictionaries of the names in Triton's protocol, which both protocols send. Sources: Triton's extension_statistics.md,
extension_model_configuration.md and extension_model_repository.md. A model has no batching of Triton's (max_batch_size
0): its shapes are whole, and a request is one inference whatever its batch. Durations of compute_input and
compute_output are 0: both are measured in the time of success alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from loadproof_server.dataplane.metrics import Histogram
from loadproof_server.dataplane.model import ServedModel
from loadproof_server.dataplane.plane import Plane
from loadproof_server.engine.specs import TensorSpec
from loadproof_server.tensors.datatypes import DATATYPES


def config(model: ServedModel) -> dict[str, Any]:
    """ModelConfig."""
    return {
        "name": model.name,
        "platform": "openvino_model",
        "backend": "openvino",
        "max_batch_size": 0,
        "input": [{**_tensor(spec), "format": "FORMAT_NONE"} for spec in model.engine.inputs],
        "output": [_tensor(spec) for spec in model.engine.outputs],
        "instance_group": [{"name": model.name, "kind": "KIND_CPU", "count": model.engine.nireq}],
        "parameters": {name: {"string_value": value} for name, value in model.engine.in_use.items()},
    }


def statistics(plane: Plane, name: str = "", version: str = "") -> list[dict[str, Any]]:
    """ModelStatistics of a model's version, of all its versions, or of all models; raises NotFound."""
    if version:
        return [_statistics(plane.model(name, version))]
    if name:
        plane.model(name)
        return [_statistics(model) for model in plane.versions(name).values()]
    return [_statistics(model) for model in plane.models]


def index(plane: Plane) -> list[dict[str, Any]]:
    """What RepositoryIndex lists: the versions that are served."""
    return [{"name": model.name, "version": model.version, "state": "READY"} for model in plane.models]


def total(found: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The ModelStatistics of several processes, added up."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in chain.from_iterable(found):
        key = row["name"], row["version"]
        rows[key] = _added(rows[key], row) if key in rows else row
    return list(rows.values())


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    added = dict(one)
    for name, value in other.items():
        if isinstance(value, dict):
            added[name] = _added(one[name], value)
        elif isinstance(value, int):
            added[name] = max(one[name], value) if name == "last_inference" else one[name] + value
    return added


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": DATATYPES[spec.datatype].triton, "dims": list(spec.shape)}


def _statistics(model: ServedModel) -> dict[str, Any]:
    metrics = model.metrics
    counts = metrics.interfaces.values()
    success = sum(each.success for each in counts)
    durations = {
        "success": _duration(*(each.request_time for each in counts)),
        "fail": {"count": sum(each.fail for each in counts), "ns": 0},
        "queue": _duration(metrics.wait_time),
        "compute_input": {"count": success, "ns": 0},
        "compute_infer": _duration(metrics.inference_time),
        "compute_output": {"count": success, "ns": 0},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": metrics.last_inference_ms,
        "inference_count": success,
        "execution_count": success,
        "inference_stats": durations,
        "batch_stats": [],
    }


def _duration(*histograms: Histogram) -> dict[str, int]:
    return {
        "count": sum(sum(each.counts) for each in histograms),
        "ns": round(1000 * sum(each.sum_us for each in histograms)),
    }
