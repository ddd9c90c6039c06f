"""Reads, prepares and compiles a model; reports what OpenVINO refuses in one line.

Mean, scale, colours, layout and precision become part of the model (OpenVINO's PrePostProcessor), so that clients may
send bytes of images as they are. They are applied in the order type, colours, mean, scale: mean and scale are in the
model's own order of channels. Shapes come last: they are what clients send.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openvino as ov
from openvino.preprocess import ColorFormat, PrePostProcessor

from loadproof_server.engine.metadata import layout_of
from loadproof_server.engine.names import Names, names_of
from loadproof_server.engine.preparation import ONLY, Preparation
from loadproof_server.engine.specs import ANY, Dimension
from loadproof_server.errors import StartError
from loadproof_server.tensors.datatypes import BY_OPENVINO, DATATYPES

log = logging.getLogger("loadproof-server")

_COMPOSITE_DEVICES: Final = ("AUTO", "HETERO", "MULTI", "BATCH")


@dataclass(frozen=True, slots=True)
class Compiled:
    """OpenVINO's compiled model, and what only the model that it was compiled from says."""

    model: Any
    names: Names
    has_state: bool  # variables, which ReadValue reads and Assign writes


def compiled(path: Path, device: str, properties: Mapping[str, Any], preparation: Preparation) -> Compiled:
    """The model, prepared and compiled; raises StartError, in one line, if OpenVINO refuses it."""
    try:
        _require_device(device)
        read = _core().read_model(path)
        names, has_state = names_of(read), bool(read.get_variables())
        model = _reshaped(_preprocessed(read, preparation, names), preparation, names)
        made = _core().compile_model(model, device, with_defaults(properties))
    except (RuntimeError, TypeError, ValueError) as error:
        raise StartError(f"{path} does not load on {device}: {one_line(error)}") from None
    _warn_about_precision(path, properties, made)
    return Compiled(made, names, has_state)


def with_defaults(properties: Mapping[str, Any]) -> dict[str, Any]:
    """OVMS's default: PERFORMANCE_HINT=LATENCY unless a hint or the number of streams is given."""
    if "PERFORMANCE_HINT" in properties or "NUM_STREAMS" in properties:
        return dict(properties)
    return {**properties, "PERFORMANCE_HINT": "LATENCY"}


def streams_of(model: Any) -> int:
    """NUM_STREAMS of the compiled model, or the sum over its devices (AUTO, HETERO, MULTI); 1 where none says it."""
    try:
        return int(model.get_property("NUM_STREAMS"))
    except RuntimeError:
        pass
    try:
        devices = model.get_property("DEVICE_PROPERTIES").values()
        return sum(int(device.get("NUM_STREAMS", 1)) for device in devices) or 1
    except RuntimeError:
        return 1


def one_line(error: Exception) -> str:
    """OpenVINO's message without the places in its source where it was thrown; 500 characters at most."""
    text = re.sub(r"(Caught exception: )?Exception from \S+:\d+:", "", str(error))
    return " ".join(text.split())[:500] or type(error).__name__


def openvino_version() -> str:
    """OpenVINO's version, which the server's metadata reports."""
    return str(ov.__version__)


@functools.cache
def _core() -> Any:
    """Reads weights rather than mapping their file: a file that is overwritten would change the answers of the model
    that serves, and one that is cut short, as `cp` does first, would end the process by SIGBUS (2026.4)."""
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})
    return core


def _require_device(device: str) -> None:
    """Raises ValueError with what the machine has where it lacks a device of an expression as HETERO:GPU,CPU."""
    have = _core().available_devices
    kinds = {name.partition(".")[0] for name in have}
    over, colon, rest = device.partition(":")
    wanted = rest.split(",") if over in _COMPOSITE_DEVICES and (colon or over != "AUTO") else [device]
    for name in wanted:
        plain = re.sub(r"\(\d+\)$", "", name)
        if device == "AUTO" or plain.startswith("-") or plain in have or plain in kinds:
            continue
        missing = f"{plain} is not here" if plain else "a device is missing"
        raise ValueError(f"{missing}; this machine has {', '.join(have)}, and AUTO, HETERO:... and MULTI:... of these")


def _warn_about_precision(path: Path, properties: Mapping[str, Any], made: Any) -> None:
    """OpenVINO silently replaces a precision that the machine lacks; a benchmark needs to know."""
    wanted = properties.get("INFERENCE_PRECISION_HINT")
    try:
        got = made.get_property("INFERENCE_PRECISION_HINT").to_string()
    except (RuntimeError, AttributeError):
        return
    if wanted not in (None, got):
        log.warning("%s: INFERENCE_PRECISION_HINT %s is not to be had here; inferences run in %s", path, wanted, got)


def _preprocessed(model: Any, preparation: Preparation, names: Names) -> Any:
    given = {key: getattr(preparation, key) for key in ("layout", "mean", "scale", "color_format", "precision")}
    if not any(given.values()):
        return model
    places = {key: _places(key, values, names, outputs=key == "layout") for key, values in given.items()}
    processor = PrePostProcessor(model)
    for position, port in enumerate(model.inputs):
        own = {key: values["input", position] for key, values in places.items() if ("input", position) in values}
        if own:
            _preprocess(processor.input(position), port, names.inputs[position], own)
    for position in range(len(model.outputs)):
        if ("output", position) in places["layout"]:
            client, source = places["layout"]["output", position]
            processor.output(position).model().set_layout(ov.Layout(source))
            processor.output(position).tensor().set_layout(ov.Layout(client))
    return processor.build()


def _preprocess(step: Any, port: Any, name: str, own: Mapping[str, Any]) -> None:
    """The steps of one input: `own` has what is to be done, by the preparation's keys."""
    client, source = own.get("layout") or (layout_of(port),) * 2
    model_type = port.get_element_type().get_type_name()
    client_type = _client_type(own["precision"], BY_OPENVINO[model_type].name) if "precision" in own else model_type
    step.tensor().set_element_type(_type(client_type))
    if client:
        step.tensor().set_layout(ov.Layout(client))
        step.model().set_layout(ov.Layout(source))
    numeric = [key for key in ("color_format", "mean", "scale") if key in own]
    for key in numeric:
        if "C" not in client and (key == "color_format" or len(own[key]) > 1):
            raise ValueError(f"{key}: nobody knows which dimension of {name} has the channels; give layout")
    if numeric and not BY_OPENVINO[client_type].is_float:
        step.preprocess().convert_element_type(_type(model_type if BY_OPENVINO[model_type].is_float else "f32"))
    if "color_format" in own:
        step.tensor().set_color_format(getattr(ColorFormat, own["color_format"][0]))
        step.preprocess().convert_color(getattr(ColorFormat, own["color_format"][1]))
    for key in ("mean", "scale"):
        if key in own:
            getattr(step.preprocess(), key)(own[key][0] if len(own[key]) == 1 else list(own[key]))


def _client_type(pair: tuple[str, str], model_datatype: str) -> str:
    """OpenVINO's name of what clients send, where the other of the pair is the model's own."""
    if model_datatype not in pair:
        raise ValueError(f"precision: the model has {model_datatype}, which is neither of {':'.join(pair)}")
    return DATATYPES[pair[0] if pair[1] == model_datatype else pair[1]].openvino


def _type(name: str) -> Any:
    return getattr(ov.Type, name)


def _reshaped(model: Any, preparation: Preparation, names: Names) -> Any:
    """Shapes where they are given, else the batch size; OVMS's order of precedence."""
    shapes: dict[int, list[Dimension]] = {}
    wanted = _places("shape", preparation.shape, names)
    for position, port in enumerate(model.inputs):
        partial = port.get_partial_shape()
        rank = len(partial) if partial.rank.is_static else 0
        if ("input", position) in wanted:
            shapes[position] = list(wanted["input", position] or [(0, ANY)] * rank)
        elif preparation.batch_size and not preparation.shape and rank:
            letters = layout_of(port)
            shapes[position] = [(dimension.get_min_length(), dimension.get_max_length()) for dimension in partial]
            shapes[position][letters.index("N") if "N" in letters else 0] = preparation.batch_size
    if shapes:
        partials = {
            position: ov.PartialShape([ov.Dimension(low, high) for low, high in limits])
            for position, limits in shapes.items()
        }
        model.reshape(partials)
    return model


def _places(key: str, values: Mapping[str, Any], names: Names, *, outputs: bool = False) -> dict[tuple[str, int], Any]:
    """The values by ("input" or "output", position); raises ValueError for a name that no tensor has."""
    places = names.places(outputs=outputs)
    found = {}
    for name, value in values.items():
        if name == ONLY and len(names.inputs) > 1:
            raise ValueError(f"{key}: the model has several inputs; give an object of {', '.join(names.inputs)}")
        place = ("input", 0) if name == ONLY else places.get(name)
        if place is None:
            declared = ", ".join((*(names.outputs if outputs else ()), *names.inputs))
            raise ValueError(f"{key}: {name[:100]} is none of {declared}")
        found[place] = value
    return found
