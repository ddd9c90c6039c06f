"""What is done to a model before it is compiled: its shape, layout, mean, scale, colours and precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from loadproof_server.engine.specs import Dimension

ONLY: Final = ""  # the name that stands for the model's only input


@dataclass(frozen=True, slots=True)
class Preparation:
    """By the tensors' names; what is empty leaves the model as it is."""

    shape: Mapping[str, tuple[Dimension, ...] | None] = field(default_factory=dict)  # None: all dimensions dynamic
    batch_size: Dimension | None = None
    layout: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # the client's and the model's
    mean: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # one for all channels or one for each
    scale: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    color_format: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # the client's and the model's
    precision: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # KServe datatypes, one is the model's own


AS_IT_IS: Final = Preparation()
