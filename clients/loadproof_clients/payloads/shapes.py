"""Decides the shape of every input: metadata, `load.batch`, `load.shapes` and the user's arrays have to agree."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from loadproof_clients.spec import Load

Shape = tuple[int, ...]
DYNAMIC: Final = -1


class Input(NamedTuple):
    """A model's input as the server describes it; -1 stands for a size that the request decides."""

    name: str
    datatype: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"


class Mistake(NamedTuple):
    """What is wrong with a key of the plan, and what is allowed."""

    key: str
    message: str


class PayloadError(Exception):
    """The payloads cannot be made: every mistake that was found."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(f"{mistake.key}: {mistake.message}" for mistake in mistakes))
        self.mistakes = list(mistakes)


def resolve(inputs: Sequence[Input], load: Load, arrays: Mapping[str, Shape]) -> tuple[dict[str, Shape], list[Mistake]]:
    """The shape of each input of one request, and every mistake on the way (the shapes count only without mistakes).

    A dynamic first size is the batch, unless `load.batch` is "none". Other dynamic sizes come from `load.shapes` or
    from the user's array: that has the shape of one request, or one axis more in front for several requests, or, where
    there is a batch, more rows than it: then it is cut up. All arrays have to give as many requests.
    """
    mistakes = list(unknown_names("load.shapes", load.shapes, inputs))
    if load.batch != "none":
        mistakes += _batch_mistakes(inputs, load.batch)
    shapes = {}
    for described in inputs:
        try:
            shape = _from_plan(described, load)
            if described.name in arrays:
                shape = _from_array(described, shape, arrays[described.name], load.batch)
            if DYNAMIC in shape:
                raise _Wrong(
                    "load.shapes", f"{described} leaves sizes open: say them, as in {_example(described, load)}"
                )
            shapes[described.name] = shape
        except _Wrong as error:
            mistakes.append(error.mistake)
    if not mistakes:
        mistakes += _count_mistakes(shapes, arrays)
    return shapes, mistakes


def unknown_names(key: str, names: Mapping[str, object], inputs: Sequence[Input]) -> Iterator[Mistake]:
    """A mistake for each name that is no input of the model."""
    known = ", ".join(str(described) for described in inputs)
    for name in names.keys() - {described.name for described in inputs}:
        yield Mistake(key, f'"{name}" is no input of the model; it has {known}')


class _Wrong(Exception):
    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.mistake = Mistake(key, message)


def _batch_mistakes(inputs: Sequence[Input], batch: int) -> list[Mistake]:
    """A model whose inputs all have a fixed first size has that batch; differing ones are no batch, so it must be 1."""
    first = [described.shape[0] for described in inputs if described.shape]
    if not first or DYNAMIC in first or batch in first or (len(set(first)) > 1 and batch == 1):
        return []
    described = next(described for described in inputs if described.shape)
    cure = f'set load.batch = {first[0]}, or "none" where that size is no batch'
    return [Mistake("load.batch", f"found {batch}; {described} fixes the batch: {cure}")]


def _count_mistakes(shapes: Mapping[str, Shape], arrays: Mapping[str, Shape]) -> list[Mistake]:
    """Arrays that give different numbers of requests: the rest of the longer ones would be dropped."""
    counts = {name: math.prod(array) // max(1, math.prod(shapes[name])) for name, array in arrays.items()}
    if len(set(counts.values())) < 2:
        return []
    found = ", ".join(f"{name} {list(arrays[name])} {count}" for name, count in counts.items())
    cure = 'set load.batch = "none" to send the arrays as they are, or give each as many rows'
    return [Mistake("load.batch", f"the arrays give different numbers of requests: {found}; {cure}")]


def _from_plan(described: Input, load: Load) -> Shape:
    declared, wanted = described.shape, load.shapes.get(described.name)
    has_batch = load.batch != "none" and declared[:1] == (DYNAMIC,)
    if wanted is None:
        return (load.inferences, *declared[1:]) if has_batch else declared
    if len(wanted) != len(declared) or any(d not in (DYNAMIC, w) for d, w in zip(declared, wanted, strict=True)):
        raise _Wrong("load.shapes", f"found {described.name} = {wanted}; the model has {described}")
    if not has_batch:
        return tuple(wanted)
    if wanted[0] not in (1, load.batch):
        message = f"found {described.name} = {wanted}, but load.batch = {load.batch}: the first size is the batch"
        raise _Wrong("load.shapes", f"{message}; set load.batch = {wanted[0]}")
    return (load.inferences, *wanted[1:])


def _from_array(described: Input, shape: Shape, array: Shape, batch: int | Literal["none"]) -> Shape:
    one = array[1:] if len(array) == len(shape) + 1 else array
    if batch != "none" and len(array) == len(shape) > 0 and described.shape[0] in (DYNAMIC, batch):
        if array[0] % batch:
            message = f"the array for {described} has {array[0]} rows, which load.batch = {batch} does not divide"
            raise _Wrong("load.batch", message)
        one = (batch, *array[1:])
    if len(one) != len(shape) or any(s not in (DYNAMIC, o) for s, o in zip(shape, one, strict=True)) or 0 in array:
        wanted = list(shape)
        message = f"the array for {described.name} has shape {list(array)}; allowed: {wanted}, or [any, *{wanted}]"
        raise _Wrong("load.payload", message)
    return one


def _example(described: Input, load: Load) -> str:
    size = 224 if len(described.shape) == 4 else 16
    sizes = [size if d == DYNAMIC else d for d in described.shape]
    if load.batch != "none" and described.shape[:1] == (DYNAMIC,):
        sizes[0] = load.batch
    name = described.name if re.fullmatch(r"[A-Za-z0-9_-]+", described.name) else f'"{described.name}"'
    return f"shapes = {{{name} = {sizes}}}"
