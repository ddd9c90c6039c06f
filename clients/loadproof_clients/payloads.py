"""Makes the distinct inputs of a run from the model's metadata and the load specification, and keeps them in files.

A file of payloads or answers holds length-delimited protobuf messages, one after the other: KServe `ModelInferRequest`
or `ModelInferResponse`, with the tensors in raw contents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf import proto
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from loadproof_clients import arrays, images
from loadproof_clients.shapes import Input, Mistake, PayloadError, Shape, resolve
from loadproof_clients.spec import Load
from loadproof_clients.tensors import Layout, image_layout, item_bytes, pixel_tensor, random_tensor, range_mistakes

BYTES_MAX: Final = 1 << 30  # of all payloads of a run together; also KServe's largest message

Tensor = npt.NDArray[Any]
Source = Callable[[int], Tensor]  # number of the payload -> the input's tensor in it


def make(inputs: Sequence[Input], load: Load, model: str) -> Iterator[Any]:
    """The run's payloads: ModelInferRequest messages, no two alike, `load.payloads` of them if the source has as many.

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
    return _distinct(_request(inputs, sources, model, number) for number in range(count))


def write_messages(path: Path, messages: Iterable[Any]) -> int:
    """Write protobuf messages to the file; returns how many."""
    count = 0
    with path.open("wb") as file:
        for message in messages:
            proto.serialize_length_prefixed(message, file)
            count += 1
    return count


def read_messages(path: Path, message_class: type[Any]) -> Iterator[Any]:
    """The file's messages, one after the other; ValueError where the file is cut off or not of this kind."""
    with path.open("rb") as file:
        try:
            while (message := proto.parse_length_prefixed(message_class, file)) is not None:
                yield message
        except (DecodeError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a whole file of {message_class.__name__} messages: {error}") from None


def _distinct(messages: Iterable[Any]) -> Iterator[Any]:
    """Without the repeated: a BOOL has two values, and a folder may hold copies of a picture."""
    seen: set[bytes] = set()
    for message in messages:
        digest = hashlib.sha256(b"".join(message.raw_input_contents)).digest()
        if digest not in seen:
            seen.add(digest)
            yield message


def _request(inputs: Sequence[Input], sources: Mapping[str, Source], model: str, number: int) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    for described in inputs:
        tensor = np.asarray(sources[described.name](number))
        request.inputs.add(name=described.name, datatype=described.datatype, shape=tensor.shape)
        raw = serialize_byte_tensor(tensor).item() if described.datatype == "BYTES" else tensor.tobytes()
        request.raw_input_contents.append(raw)
    return request


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
    """For each input that looks like one for pictures: its layout and the pictures; the other inputs stay random."""
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

    def tensor(number: int) -> Tensor:
        chosen = [pictures[(number * batch + row) % len(pictures)] for row in range(batch)]
        return pixel_tensor(described, np.stack(chosen), load.ranges.get(described.name), layout)

    return tensor
