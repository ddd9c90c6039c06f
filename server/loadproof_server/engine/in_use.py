"""What a compiled model really uses: OpenVINO may choose, or replace, what it was asked for.

An f32 model runs in bf16 on a CPU that has it, and a hint decides streams and threads; a benchmark has to know. OVMS's
model metadata has no place for it, so it is logged when the model is loaded, and shown as `parameters` of Triton's
model configuration, which OVMS does not have at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

PROPERTIES: Final = ("EXECUTION_DEVICES", "INFERENCE_PRECISION_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS")


def properties_in_use(model: Any) -> dict[str, str]:
    """The PROPERTIES of the compiled model as text; those that its device does not say are left out.

    AUTO, HETERO and MULTI say them of each device that they use; of several it is `CPU:2,GPU:4`.
    """
    own = {name: value for name in PROPERTIES if (value := _property(model, name)) is not None}
    devices = _property(model, "DEVICE_PROPERTIES")
    if isinstance(devices, Mapping):
        for name in PROPERTIES[1:]:
            said = {device: values[name] for device, values in devices.items() if name in values}
            if name not in own and len(said) == 1:
                own[name] = next(iter(said.values()))
            elif name not in own and said:
                own[name] = [f"{device}:{_text(value)}" for device, value in said.items()]
    return {name: _text(own[name]) for name in PROPERTIES if name in own}


def _property(model: Any, name: str) -> Any:
    try:
        return model.get_property(name)
    except RuntimeError:
        return None


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value.to_string()) if hasattr(value, "to_string") else str(value)
