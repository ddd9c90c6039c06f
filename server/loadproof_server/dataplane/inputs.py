"""What a protocol's adapter passes to the data plane: tensors as they came, in any form."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadproof_server.errors import InvalidRequest
from loadproof_server.tensors.datatypes import Array

MAX_TENSORS: Final = 1024  # inputs, or outputs that are asked for, of one request
# Parameters that change what a tensor's data is: to ignore them would give a wrong answer.
_UNSUPPORTED: Final = ("shared_memory_region", "classification")


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input as it came: `data` in any form, and the function of `tensors.codec` that reads this form."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Any
    read: Callable[[str, str, Sequence[int], Any], Array]


def refuse_unsupported(field: str, parameters: Container[str]) -> None:
    """Raises InvalidRequest where the tensor's parameters ask for an extension that the server does not have."""
    for parameter in _UNSUPPORTED:
        if parameter in parameters:
            raise InvalidRequest(f"{field}: {parameter} is not supported; tensors travel whole, in the message")


def refuse_too_many(field: str, number: int) -> None:
    """Raises InvalidRequest where a request has more tensors than any model."""
    if number > MAX_TENSORS:
        raise InvalidRequest(f"{field}: {number} entries are too many; {MAX_TENSORS} are read")
