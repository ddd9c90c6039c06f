"""`python -m loadproof.reference`: OpenVINO's own answers to a run's payloads, for the server's answers to be checked.

It shares no code with any server: the model file, OpenVINO's Python interface and numpy alone. The same device and
properties as the server's give the same precision.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov

from loadproof.models import convert
from loadproof_clients.tensors import files
from loadproof_clients.tensors.tensor import DTYPES, Array, Tensor, Tensors, from_array, to_array

DATATYPES: Final = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64",
    "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64",
    "f16": "FP16", "bf16": "BF16", "f32": "FP32", "f64": "FP64", "string": "BYTES",
}  # fmt: skip


class Refused(Exception):
    """A payload has no answer, or the model cannot be used; one clear line."""


class Reference:
    """A compiled model that answers payloads one after the other."""

    def __init__(self, model: Path, device: str, properties: dict[str, Any]) -> None:
        """Raises Refused where OpenVINO does not read or compile the model."""
        if not {"PERFORMANCE_HINT", "NUM_STREAMS"} & properties.keys():
            properties = {**properties, "PERFORMANCE_HINT": "LATENCY"}  # the server's default, after OVMS
        try:
            core = ov.Core()
            read = core.read_model(model)
            inputs, outputs = names(read)
            self._has_state = bool(read.get_variables())
            compiled = core.compile_model(read, device, properties)
            self._request = compiled.create_infer_request()
        except (RuntimeError, TypeError, ValueError) as error:
            raise Refused(f"{model} does not load on {device}: {' '.join(str(error).split())[:500]}") from None
        self._inputs = dict(zip(inputs, compiled.inputs, strict=True))
        self._outputs = list(zip(outputs, map(_datatype, compiled.outputs), strict=True))

    def answer(self, payload: Tensors) -> list[Tensor]:
        """The model's outputs, in its order; raises Refused."""
        given = {tensor.name: tensor for tensor in payload}
        if given.keys() != self._inputs.keys():
            raise Refused(f"it has inputs {', '.join(given)}; the model's are {', '.join(self._inputs)}")
        try:
            for name, port in self._inputs.items():
                self._request.set_tensor(port, _input(given[name]))
            if self._has_state:
                self._request.reset_state()  # each payload has its answer, whatever came before it
            self._request.infer()
        except (RuntimeError, ValueError) as error:
            raise Refused(" ".join(str(error).split())[:500]) from None
        tensors = [self._request.get_output_tensor(position) for position in range(len(self._outputs))]
        return [
            from_array(name, datatype, _array(tensor, datatype))
            for (name, datatype), tensor in zip(self._outputs, tensors, strict=True)
        ]


def names(model: Any) -> tuple[list[str], list[str]]:
    """The names that the model's file declares for its inputs and outputs, in its order; `model` is not yet compiled.

    OpenVINO may know a tensor by several names: compilation, or the converter that made an IR, merges it with its Cast
    or Identity. The declared one is the Parameter's own, and the Result's without `/sink_port_N`, or that of the node
    before it; else it is the first in alphabetical order, as for OVMS. OVMS names an output without a name `out_N`.
    """
    inputs: list[str] = []
    for port in model.inputs:
        own = port.get_node().get_friendly_name()
        _add_new(inputs, [own], port.get_names() or {own})
    outputs: list[str] = []
    for position, port in enumerate(model.outputs):
        result = port.get_node()
        marked = re.sub(r"/sink_port_\d+(_\d+)?$", "", result.get_friendly_name())
        before = result.input_value(0).get_node().get_friendly_name()
        _add_new(outputs, [marked, before], port.get_names() or {f"out_{position}"})
    return inputs, outputs


def _add_new(found: list[str], preferred: Sequence[str], known: Set[str]) -> None:
    """Adds the best of the known names that is not there yet: two outputs may share all of theirs."""
    ordered = [*(name for name in preferred if name in known), *sorted(known)]
    found.append(next((name for name in ordered if name not in found), ordered[0]))


def _datatype(port: Any) -> str:
    return DATATYPES[port.get_element_type().get_type_name()]


def _input(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES":
        return ov.Tensor(to_array(tensor).astype("S"))
    copied = ov.Tensor(_TYPES[tensor.datatype], ov.Shape(list(tensor.shape)))  # a tensor over an array does not own it
    np.copyto(copied.data.view(DTYPES[tensor.datatype]), to_array(tensor))
    return copied


def _array(tensor: Any, datatype: str) -> Array:
    if datatype != "BYTES":
        return np.array(tensor.data).view(DTYPES[datatype])
    if 0 in tuple(tensor.shape):  # bytes_data of no strings reads memory that is not there (OpenVINO 2026.4)
        return np.empty(tuple(tensor.shape), object)
    return np.array(tensor.bytes_data.astype(object))


_TYPES: Final = {datatype: getattr(ov.Type, name) for name, datatype in DATATYPES.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all payloads are answered; 1, and a line on stderr, for what could not be read or answered."""
    parser = argparse.ArgumentParser(prog="python -m loadproof.reference", description=str(__doc__).splitlines()[0])
    parser.add_argument("--model_path", type=Path, required=True, help="the model's file, or a directory with versions")
    parser.add_argument("--target_device", default="CPU")
    parser.add_argument("--plugin_config", type=json.loads, default={}, help="OpenVINO's properties, as JSON")
    parser.add_argument("--payloads", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True, help="file to write")
    chosen = parser.parse_args(arguments)
    try:
        payloads = files.read(chosen.payloads)
        reference = Reference(convert.model_in(chosen.model_path), chosen.target_device, chosen.plugin_config)
        files.write(chosen.answers, _answers(reference, payloads))
    except (Refused, ValueError) as error:
        print(f"loadproof-reference: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"loadproof-reference: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _answers(reference: Reference, payloads: Sequence[Tensors]) -> Iterator[list[Tensor]]:
    for number, payload in enumerate(payloads):
        try:
            yield reference.answer(payload)
        except Refused as error:
            raise Refused(f"payload {number}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
