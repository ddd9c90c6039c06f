"""ResNet-50 v1 (He et al., "Deep Residual Learning for Image Recognition", 2015, table 1) with seeded weights.

v1 exactly: where a stage halves the picture, the stride of 2 is in the block's first 1x1 convolution (v1.5 has it in
the 3x3, which costs more). Batch normalisation is in its inference form, a scale and a shift for each channel, so the
constants of the convolutions, scales, shifts and the classifier are the published 25,557,032 parameters. The output
is the classifier's 1000 logits: softmax over random classes would hide differences from a check of answers.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadproof.models.convert import runtime

SEED: Final = 50
STAGES: Final = ((64, 3), (128, 4), (256, 6), (512, 3))  # inner channels, blocks; a block puts out four times as many
PARAMETERS: Final = 25_557_032
SOURCE: Final = {"built": "ResNet-50 v1, He-normal weights", "seed": str(SEED)}

Array = npt.NDArray[np.float32]


def build() -> Any:
    """An openvino.Model: `input` FP32 [-1, 3, 224, 224] -> `logits` FP32 [-1, 1000]; the same weights every time."""
    ov = runtime()
    net = _Network(ov.opset13)
    ops = net.ops
    image = ops.parameter([-1, 3, 224, 224], np.float32, name="input")
    image.output(0).set_names({"input"})
    node = net.convolve(image, 3, 64, kernel=7, stride=2)
    node = ops.max_pool(node, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3], "floor", "explicit").output(0)
    channels = 64
    for stage, (inner, blocks) in enumerate(STAGES):
        for block in range(blocks):
            node = net.block(node, channels, inner, stride=2 if stage > 0 and block == 0 else 1)
            channels = 4 * inner
    node = ops.reduce_mean(node, np.array([2, 3]), keep_dims=False)
    node = net.classify(node, channels, 1000)
    node.output(0).set_names({"logits"})
    assert net.parameters == PARAMETERS, net.parameters
    return ov.Model([node], [image], "resnet50")


class _Network:
    """Adds layers whose weights come from one seeded stream, and counts their parameters."""

    def __init__(self, ops: Any) -> None:
        self.ops = ops
        self.parameters = 0
        self._random = np.random.default_rng(SEED)

    def convolve(
        self, node: Any, inputs: int, outputs: int, kernel: int, stride: int, gain: float | None = None
    ) -> Any:
        """Convolution, scale and shift; then ReLU, but not with `gain`: that branch is added to another."""
        # this deviation keeps the size of activations from layer to layer (He et al., "Delving Deep into Rectifiers")
        weights = self._normal((outputs, inputs, kernel, kernel), (2 / (inputs * kernel * kernel)) ** 0.5)
        pad = [kernel // 2] * 2
        node = self.ops.convolution(node, self._constant(weights), [stride] * 2, pad, pad, [1, 1])
        scale = self._normal((1, outputs, 1, 1), 0.1) + np.float32(1 if gain is None else gain)
        node = self.ops.multiply(node, self._constant(scale))
        node = self.ops.add(node, self._constant(self._normal((1, outputs, 1, 1), 0.1)))
        return self.ops.relu(node) if gain is None else node

    def block(self, node: Any, inputs: int, inner: int, stride: int) -> Any:
        """A bottleneck: 1x1 (with the stride), 3x3, 1x1, added to the input or to its 1x1 projection."""
        outputs = 4 * inner
        branch = self.convolve(node, inputs, inner, kernel=1, stride=stride)
        branch = self.convolve(branch, inner, inner, kernel=3, stride=1)
        branch = self.convolve(branch, inner, outputs, kernel=1, stride=1, gain=0.5)
        if inputs != outputs:
            node = self.convolve(node, inputs, outputs, kernel=1, stride=stride, gain=0.7)
        return self.ops.relu(self.ops.add(branch, node))

    def classify(self, node: Any, inputs: int, classes: int) -> Any:
        """The fully connected layer with its bias."""
        weights = self._normal((classes, inputs), (1 / inputs) ** 0.5)
        node = self.ops.matmul(node, self._constant(weights), transpose_a=False, transpose_b=True)
        return self.ops.add(node, self._constant(self._normal((classes,), 0.1)))

    def _normal(self, shape: tuple[int, ...], deviation: float) -> Array:
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

    def _constant(self, values: Array) -> Any:
        self.parameters += values.size
        return self.ops.constant(values)
