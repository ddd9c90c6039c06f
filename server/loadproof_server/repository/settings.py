"""What is to be served: each model with its settings, and checks that flags and configuration file share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadproof_server.dataplane.metric_names import METRICS
from loadproof_server.engine.preparation import AS_IT_IS, Preparation
from loadproof_server.repository.versions import LATEST, VersionPolicy

NIREQ_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One model to serve; an nireq of 0 leaves the number of infer requests to OpenVINO."""

    name: str
    base_path: Path
    nireq: int = 0
    target_device: str = "CPU"
    plugin_config: dict[str, Any] = field(default_factory=dict)
    preparation: Preparation = AS_IT_IS
    version_policy: VersionPolicy = LATEST
    path_key: str = "--model_path"  # where `base_path` was given, for messages


@dataclass(frozen=True, slots=True)
class Configuration:
    models: tuple[ModelSettings, ...]
    metrics_enable: bool = False  # at the start; a reload leaves /metrics as it is
    metrics_list: tuple[str, ...] = ()  # empty: the default ones


def check_name(name: str) -> str:
    """Checks the name under which a model is served; raises ValueError."""
    if not name or "/" in name:
        raise ValueError("must be a name without '/'")
    return name


def check_plugin_config(properties: Any) -> dict[str, Any]:
    """Checks OpenVINO's properties, as read from JSON; raises ValueError."""
    if not isinstance(properties, dict):
        raise ValueError('must be a JSON object, as {"NUM_STREAMS": "2"}')
    for name, value in properties.items():
        if isinstance(value, dict):  # as DEVICE_PROPERTIES has them
            check_plugin_config(value)
        elif not isinstance(value, str | int | float | bool):
            raise ValueError(f"{name}: must be a string, a number, a boolean or an object of them")
    if "PERFORMANCE_HINT" in properties and "NUM_STREAMS" in properties:
        raise ValueError("PERFORMANCE_HINT and NUM_STREAMS exclude each other; give one of them")
    return properties


def check_metrics_list(names: Any) -> tuple[str, ...]:
    """Checks the metrics to serve, by OVMS's names; raises ValueError."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError('must be a list of names, as ["ovms_streams"]')
    for name in names:
        if name not in METRICS:
            raise ValueError(f"{name[:100]!r} is no metric of OVMS; there are {', '.join(METRICS)}")
    return tuple(names)
