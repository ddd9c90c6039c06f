"""What a model takes and gives: its inputs' and outputs' names, KServe datatypes and shapes, and an inference's answer.

Nothing here needs OpenVINO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ANY: Final = -1  # a dimension without bounds
Dimension = tuple[int, int]  # the lowest and the highest size; (0, ANY): every size


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the model; `shape` has -1 where a dimension is dynamic, and `limits` its (low, high).

    `layout` has a letter for each dimension (N, C, H, W, ? where unknown), or is empty.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    limits: tuple[Dimension, ...]
    any_rank: bool = False
    layout: str = ""

    @property
    def sizes(self) -> str:
        """What `accepts` takes, as [1:8, 224] for 1 to 8 times 224; -1 is any size."""
        return f"[{', '.join(map(_size, self.limits))}]" if self.limits else str(list(self.shape))

    def accepts(self, shape: Sequence[int]) -> bool:
        if tuple(shape) == self.shape:
            return ANY not in shape
        if self.any_rank:
            return all(size >= 0 for size in shape)
        return len(shape) == len(self.limits) and all(
            low <= size and (high == ANY or size <= high) for size, (low, high) in zip(shape, self.limits, strict=True)
        )


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output of one inference, as raw bytes of its own."""

    spec: TensorSpec
    shape: tuple[int, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    outputs: list[OutputTensor]
    wait_us: float  # from submit until an infer request was free
    inference_us: float  # start to end, as the server sees it


def _size(limits: Dimension) -> str:
    low, high = limits
    if low == high:
        return str(low)
    return str(ANY) if high == ANY and low <= 1 else f"{low}:{'' if high == ANY else high}"


def guess_layout(limits: tuple[Dimension, ...]) -> str:
    """NCHW or NHWC for an image's four dimensions, of which one alone can be the channels; else empty."""
    if len(limits) != 4:
        return ""
    channels = [axis for axis in (1, 3) if limits[axis] in ((1, 1), (3, 3))]
    return {1: "NCHW", 3: "NHWC"}[channels[0]] if len(channels) == 1 else ""
