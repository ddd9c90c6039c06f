"""The names that a model's file declares for its inputs and outputs, under which they are served.

They are read before the model is compiled: compilation merges a tensor with what its Cast, Reshape or Identity makes of
it, and the port then has the names of both. A converter may have merged them already (OpenVINO's `convert_model` does);
then the node still has the declared one: a Parameter as its own name, a Result as `NAME/sink_port_0` or in what it
takes. Where nothing tells, OVMS's rule holds: the first name in alphabetical order, and `out_N` for output N without a
name (OVMS's `src/modelinstance.cpp`, `adjustForEmptyOutputNames`). OVMS refuses an input without a name; here it has
its node's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

_RESULT: Final = re.compile(r"(.+)/sink_port_\d+(?:_\d+)?")


@dataclass(frozen=True, slots=True)
class Names:
    """The declared names by position, and all that OpenVINO knows the same tensors by."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    all_inputs: tuple[frozenset[str], ...]
    all_outputs: tuple[frozenset[str], ...]

    def places(self, *, outputs: bool) -> dict[str, tuple[str, int]]:
        """("input" or "output", position) by any name; a declared name precedes others, an input an output."""
        found = {}
        if outputs:
            found = {name: ("output", position) for position, all_ in enumerate(self.all_outputs) for name in all_}
        found |= {name: ("input", position) for position, all_ in enumerate(self.all_inputs) for name in all_}
        if outputs:
            found |= {name: ("output", position) for position, name in enumerate(self.outputs)}
        return found | {name: ("input", position) for position, name in enumerate(self.inputs)}


def names_of(model: Any) -> Names:
    """Of a model as it was read, not yet compiled."""
    inputs = _distinct([list(_input_names(port)) for port in model.inputs])
    outputs = _distinct([list(_output_names(port, position)) for position, port in enumerate(model.outputs)])
    return Names(inputs, outputs, _all_names(model.inputs), _all_names(model.outputs))


def _input_names(port: Any) -> Iterator[str]:
    """The names that the input may have, the best first."""
    known, own = port.get_names(), port.get_node().get_friendly_name()
    if own in known or not known:
        yield own
    yield from sorted(known)


def _output_names(port: Any, position: int) -> Iterator[str]:
    """The same of an output."""
    known = port.get_names()
    if not known:
        yield f"out_{position}"
    result = port.get_node()
    match = _RESULT.fullmatch(result.get_friendly_name())
    for name in (match[1] if match else "", result.input_value(0).get_node().get_friendly_name()):
        if name in known:
            yield name
    yield from sorted(known)


def _distinct(candidates: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The first candidates, but no name twice where another one is left: two outputs may share all their names."""
    taken: list[str] = []
    for names in candidates:
        taken.append(next((name for name in names if name not in taken), names[0]))
    return tuple(taken)


def _all_names(ports: Sequence[Any]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(port.get_names()) for port in ports)
