"""Reads OVMS's configuration file, and reports all its mistakes in one line.

Source: OVMS's `src/schema.cpp` and `docs/parameters.md`. A relative `base_path` starts at the file's own directory.
Lists of what is not served here (graphs, pipelines, their libraries, custom loaders) may stand there empty, as OVMS's
tools write them. A byte-order mark at the start is skipped.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from loadproof_server.engine.preparation import Preparation
from loadproof_server.errors import UsageError
from loadproof_server.repository.model_options import READERS
from loadproof_server.repository.settings import (
    NIREQ_MAX,
    Configuration,
    ModelSettings,
    check_metrics_list,
    check_name,
    check_plugin_config,
)
from loadproof_server.repository.versions import LATEST, read_policy

MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_MISTAKES: Final = 10


def read(path: Path) -> Configuration:
    """The configuration in the file; raises UsageError, in one line that names each wrong key and its cure."""
    try:
        content = _ConfigFile.model_validate_json(_content(path))
    except ValidationError as error:
        raise _refused(path, [_mistake(details) for details in error.errors(include_url=False)]) from None
    entries = [entry.config for entry in content.model_config_list]
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _refused(path, [f"model_config_list: {name} is there twice; leave one of them" for name in twice])
    metrics = content.monitoring.metrics
    return Configuration(tuple(_settings(entry, path) for entry in entries), metrics.enable, metrics.metrics_list)


def _some_path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("must be the model's directory or file")
    return text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Model(_Part):
    name: Annotated[str, AfterValidator(check_name)]
    base_path: Annotated[str, AfterValidator(_some_path)]
    nireq: int = Field(0, ge=0, le=NIREQ_MAX)
    target_device: str = Field("CPU", min_length=1)
    plugin_config: Annotated[Any, AfterValidator(check_plugin_config)] = Field(default_factory=dict)
    model_version_policy: Annotated[Any, AfterValidator(read_policy)] = LATEST
    shape: Annotated[Any, AfterValidator(READERS["shape"])] = None
    batch_size: Annotated[Any, AfterValidator(READERS["batch_size"])] = None
    layout: Annotated[Any, AfterValidator(READERS["layout"])] = None
    mean: Annotated[Any, AfterValidator(READERS["mean"])] = None
    scale: Annotated[Any, AfterValidator(READERS["scale"])] = None
    color_format: Annotated[Any, AfterValidator(READERS["color_format"])] = None
    precision: Annotated[Any, AfterValidator(READERS["precision"])] = None


class _Entry(_Part):
    config: _Model


class _Metrics(_Part):
    enable: bool = False
    metrics_list: Annotated[Any, AfterValidator(check_metrics_list)] = ()


class _Monitoring(_Part):
    metrics: _Metrics = Field(default_factory=_Metrics)


def _no_entries(entries: list[Any]) -> list[Any]:
    if entries:
        raise ValueError("not supported here; empty or remove it")
    return entries


_Empty = Annotated[list[Any], AfterValidator(_no_entries)]


class _ConfigFile(_Part):
    model_config_list: list[_Entry]
    mediapipe_config_list: _Empty = Field(default_factory=list)
    pipeline_config_list: _Empty = Field(default_factory=list)
    custom_node_library_config_list: _Empty = Field(default_factory=list)
    custom_loader_config_list: _Empty = Field(default_factory=list)
    monitoring: _Monitoring = Field(default_factory=_Monitoring)


def _settings(model: _Model, path: Path) -> ModelSettings:
    prepared = {key: value for key in READERS if (value := getattr(model, key)) is not None}
    return ModelSettings(
        model.name,
        path.parent / model.base_path,
        model.nireq,
        model.target_device,
        model.plugin_config,
        Preparation(**prepared),
        model.model_version_policy,
        path_key=f"model {model.name}: base_path",
    )


def _content(path: Path) -> bytes:
    """The file's bytes, at most MAX_CONFIG_BYTES."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise _refused(path, ["is no file; give the configuration file itself"])
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise _refused(path, [f"cannot be read ({error.strerror}); give a file that can"]) from None
    if len(content) > MAX_CONFIG_BYTES:
        raise _refused(path, [f"is larger than {MAX_CONFIG_BYTES} bytes; shorten it"])
    return content.removeprefix(codecs.BOM_UTF8)


def _refused(path: Path, mistakes: Sequence[str]) -> UsageError:
    shown = [*mistakes[:_MAX_MISTAKES], *[f"and {len(mistakes) - _MAX_MISTAKES} more"][: len(mistakes) > _MAX_MISTAKES]]
    return UsageError(" ".join(f"--config_path: {path}: {'; '.join(shown)}".split()))


def _mistake(details: Any) -> str:
    kind, message = details["type"], details["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return f"broken JSON ({message.removeprefix('Invalid JSON: ')}); mend it"
    if kind == "missing":
        message = "missing; add it"
    elif kind == "extra_forbidden":
        message = "unknown or not supported here; remove it"
    return f"{_key(details['loc'])}: {message}"


def _key(place: Sequence[str | int]) -> str:
    """The place in the file, as model_config_list[0].config.nireq; a key is shown up to 100 characters."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step[:100]}" for step in place]
    return "".join(steps).removeprefix(".") or "the file"
