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
# Parameters of a request that is one of a sequence: each request is answered by itself here, whatever the model.
_SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end")


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


def refuse_sequence(parameters: Container[str]) -> None:
    """Raises InvalidRequest where the request's parameters make it one of a sequence (Triton's extension_sequence.md):
    a model's state would have to outlast the request."""
    for parameter in _SEQUENCE:
        if parameter in parameters:
            raise InvalidRequest(
                f"parameters.{parameter}: sequences are not supported; a model's state begins anew with each request"
            )


def refuse_too_many(field: str, number: int) -> None:
    """Raises InvalidRequest where a request has more tensors than any model."""
    if number > MAX_TENSORS:
        raise InvalidRequest(f"{field}: {number} entries are too many; {MAX_TENSORS} are read")
