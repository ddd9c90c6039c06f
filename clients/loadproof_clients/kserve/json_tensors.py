"""KServe's JSON over REST from and to tensors, with tritonclient's own encoder and decoder."""

from __future__ import annotations

from typing import Any

from tritonclient.http import InferInput

from loadproof_clients.tensors.tensor import Tensor, Tensors, pack, to_array


def binary_inputs(payload: Tensors) -> list[Any]:
    """tritonclient's inputs of one payload, as binary data."""
    return [
        InferInput(t.name, list(t.shape), t.datatype).set_data_from_numpy(to_array(t), binary_data=True)
        for t in payload
    ]


def read_result(result: Any) -> list[Tensor]:
    """The outputs as raw bytes; `_buffer` is private, but the public as_numpy decodes what is compared as bytes."""
    tensors, at = [], 0
    for output in result.get_response()["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            raw: bytes | bytearray = pack(output["datatype"], output["data"])
        else:
            raw = result._buffer[at : at + size]
            at += size
        tensors.append(Tensor(output["name"], output["datatype"], tuple(output["shape"]), raw))
    return tensors
