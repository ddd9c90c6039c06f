"""Makes the distinct inputs of a run from the model's metadata and the load specification."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from loadproof_clients.payloads import arrays, images
from loadproof_clients.payloads.arrays import BYTES_MAX
from loadproof_clients.payloads.filling import (
    Layout,
    image_layout,
    item_bytes,
    pixel_tensor,
    random_tensor,
    range_mistakes,
)
from loadproof_clients.payloads.shapes import Input, Mistake, PayloadError, Shape, resolve
from loadproof_clients.spec import Load
from loadproof_clients.tensors.tensor import Array, Tensors, from_array

Source = Callable[[int], Array]  # number of the payload -> the input's tensor in it


def make(inputs: Sequence[Input], load: Load) -> Iterator[Tensors]:
    """The run's payloads, all different: `load.payloads` of them if the source has as many.

    Everything is checked before the first is made: raises PayloadError with all mistakes. Payload k depends on
    `load.seed` and k alone.
    """
    kind, _, where = load.payload.partition(":")
    files = arrays.load(Path(where), inputs) if kind == "npy" else {}
    shapes, mistakes = resolve(inputs, load, {name: array.shape for name, array in files.items()})
    mistakes += range_mistakes(inputs, load.ranges)
    if mistakes:
        raise PayloadError(mistakes)
    _check_size(inputs, shapes, load.payloads)
    sources = {
        described.name: _random(described, shapes[described.name], load, index)
        for index, described in enumerate(inputs)
    }
    count = load.payloads
    if kind == "npy":
        rows = {name: array.reshape(-1, *shapes[name]) for name, array in files.items()}
        count = min(count, *map(len, rows.values()))
        sources = {name: array.__getitem__ for name, array in rows.items()}
    elif kind == "images":
        pictures = _pictures(inputs, shapes, load)
        count = min(count, *(-(-len(found) // shapes[name][0]) for name, (_, found) in pictures.items()))
        for described in inputs:
            if described.name in pictures:
                sources[described.name] = _album(described, shapes[described.name][0], load, *pictures[described.name])
    return _distinct(_payload(inputs, sources, number) for number in range(count))


def _distinct(payloads: Iterable[Tensors]) -> Iterator[Tensors]:
    """Without the repeated: a BOOL has two values, and a folder may hold copies of a picture."""
    seen: set[bytes] = set()
    for payload in payloads:
        digest = hashlib.sha256(b"".join(tensor.raw for tensor in payload)).digest()
        if digest not in seen:
            seen.add(digest)
            yield payload


def _payload(inputs: Sequence[Input], sources: Mapping[str, Source], number: int) -> Tensors:
    return [from_array(i.name, i.datatype, np.asarray(sources[i.name](number))) for i in inputs]


def _check_size(inputs: Sequence[Input], shapes: Mapping[str, Shape], payloads: int) -> None:
    one = sum(math.prod(shapes[described.name]) * item_bytes(described) for described in inputs)
    if one * payloads > BYTES_MAX:
        fit = BYTES_MAX // one
        cure = f"set load.payloads = {fit} or less" if fit else "set a smaller load.batch or smaller load.shapes"
        size = f"{payloads} payloads of {one / 2**20:.1f} MiB are over the limit of {BYTES_MAX >> 20} MiB"
        raise PayloadError([Mistake("load.payloads", f"{size}; {cure}")])


def _random(described: Input, shape: Shape, load: Load, index: int) -> Source:
    limits = load.ranges.get(described.name)
    return lambda number: random_tensor(described, shape, limits, np.random.default_rng([load.seed, number, index]))


def _pictures(
    inputs: Sequence[Input], shapes: Mapping[str, Shape], load: Load
) -> dict[str, tuple[Layout, list[images.Picture]]]:
    """The layout and the pictures of each input that has the shape of pictures; the other inputs stay random."""
    layouts = {i.name: layout for i in inputs if (layout := image_layout(i, shapes[i.name]))}
    if not layouts:
        cure = 'it needs numbers [batch, 3, height, width] or [batch, height, width, 3]; set load.payload = "random"'
        found = ", ".join(str(described) for described in inputs)
        raise PayloadError([Mistake("load.payload", f"no input takes pictures: {found}; {cure}")])
    folder = load.payload.partition(":")[2]
    found_pictures = {}
    for name, layout in layouts.items():
        wanted, size = load.payloads * shapes[name][0], (layout.height, layout.width, layout.channels)
        try:
            pictures = (
                images.from_folder(Path(folder), wanted, *size) if folder else images.rendered(wanted, *size, load.seed)
            )
        except ValueError as error:
            raise PayloadError([Mistake("load.payload", str(error))]) from None
        found_pictures[name] = (layout, pictures)
    return found_pictures


def _album(described: Input, batch: int, load: Load, layout: Layout, pictures: list[images.Picture]) -> Source:
    """`batch` pictures a payload, in order; where the last payload lacks some, from the first again."""

    def tensor(number: int) -> Array:
        chosen = [pictures[(number * batch + row) % len(pictures)] for row in range(batch)]
        return pixel_tensor(described, np.stack(chosen), load.ranges.get(described.name), layout)

    return tensor
