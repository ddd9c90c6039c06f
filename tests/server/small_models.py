"""Small models built with OpenVINO's opset, OpenVINO's own answers to them, and servers in this process and others."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import uvloop
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo

from loadproof_server.connections.listener import Limits, Listener, ListenerState
from loadproof_server.connections.sockets import listen
from tests.ports import free_ports

# KServe's datatypes, OpenVINO's types of the same values, and values of an input of shape [2, 3] as raw bytes.
KINDS: dict[str, tuple[Any, bytes]] = {
    "BOOL": (ov.Type.boolean, np.array([1, 0, 1, 1, 0, 0], "?").tobytes()),
    "UINT8": (ov.Type.u8, np.array([0, 1, 127, 128, 254, 255], "u1").tobytes()),
    "UINT16": (ov.Type.u16, np.array([0, 1, 255, 256, 65534, 65535], "<u2").tobytes()),
    "UINT32": (ov.Type.u32, np.array([0, 1, 2, 65536, 2**31 - 1, 7], "<u4").tobytes()),
    "UINT64": (ov.Type.u64, np.array([0, 1, 2, 65536, 2**31 - 1, 7], "<u8").tobytes()),
    "INT8": (ov.Type.i8, np.array([-128, -1, 0, 1, 126, 127], "i1").tobytes()),
    "INT16": (ov.Type.i16, np.array([-32768, -1, 0, 1, 32766, 32767], "<i2").tobytes()),
    "INT32": (ov.Type.i32, np.array([-(2**31), -1, 0, 1, 5, 2**31 - 1], "<i4").tobytes()),
    "INT64": (ov.Type.i64, np.array([-(2**31), -1, 0, 1, 5, 2**31 - 1], "<i8").tobytes()),
    "FP16": (ov.Type.f16, np.array([-1.5, 0, 0.1, 1, 2.25, 65504], "<f2").tobytes()),
    "BF16": (ov.Type.bf16, np.array([0x3F80, 0x4000, 0xBF80, 0x0000, 0x4049, 0x3DCC], "<u2").tobytes()),
    "FP32": (ov.Type.f32, np.array([-1.5, 0, 0.1, 1, 1e-30, 3e38], "<f4").tobytes()),
    "FP64": (ov.Type.f64, np.array([-1.5, 0, 0.1, 1, 1e-30, 3e38], "<f8").tobytes()),
    "BYTES": (
        ov.Type.string,
        b"".join(len(x).to_bytes(4, "little") + x for x in (b"a", b"", b"\xff\0z", b"d", b"e", b"f")),
    ),
}
KINDS_SHAPE = (2, 3)
SLOW_S = 0.8


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    grpc_port: int
    rest_port: int

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def rest(self) -> str:
        return f"127.0.0.1:{self.rest_port}"

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum of the samples of that name and with these labels."""
        with urllib.request.urlopen(f"http://{self.rest}/metrics") as response:
            rows = re.findall(rf"^{name}{{(.*)}} (.*)$", response.read().decode(), re.MULTILINE)
        assert rows, name
        return sum(float(value) for row, value in rows if all(f'{key}="{text}"' in row for key, text in labels.items()))


Serve = Callable[..., Server]


@asynccontextmanager
async def listening(
    make: Callable[[ListenerState], asyncio.BufferedProtocol], **limits: Any
) -> AsyncIterator[tuple[int, Listener]]:
    """A listener of this process on a port of its own; its connections are what `make` makes."""
    port = free_ports(1)[0]
    listener = Listener(make, Limits(**limits))
    await listener.start(listen("127.0.0.1", port))
    try:
        yield port, listener
    finally:
        await listener.stop(5)


def run(test: Callable[[], Awaitable[None]]) -> None:
    uvloop.run(asyncio.wait_for(test(), 60))


def parameter(name: str, element_type: Any, shape: list[int]) -> Any:
    node = op.parameter(shape, element_type, name=name)
    node.output(0).set_names({name})
    return node


def save(path: Path, inputs: list[Any], outputs: dict[str, Any], version: str = "1") -> Path:
    results = []
    for name, node in outputs.items():
        node.output(0).set_names({name})
        results.append(op.result(node))
    directory = path / version
    directory.mkdir(parents=True)
    ov.save_model(ov.Model(results, inputs, path.name), directory / "model.xml", compress_to_fp16=False)
    return path


def scale_model(path: Path, factor: float, version: str = "1") -> Path:
    """y = factor * x, for any number of rows of four."""
    x = parameter("x", ov.Type.f32, [-1, 4])
    return save(path, [x], {"y": op.multiply(x, op.constant(np.float32(factor)))}, version)


def sum_model(path: Path) -> Path:
    """y is the sum of all x of [1, 4] that an infer request has had: a model with a state."""
    x = parameter("x", ov.Type.f32, [1, 4])
    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = ov.PartialShape([1, 4]), ov.Type.f32, "sum"
    variable = Variable(info)
    y = op.add(op.read_value(op.constant(np.zeros((1, 4), np.float32)), variable), x)
    y.output(0).set_names({"y"})
    (path / "1").mkdir(parents=True)
    model = ov.Model([op.result(y)], [op.assign(y, variable)], [x], path.name)
    ov.save_model(model, path / "1" / "model.xml", compress_to_fp16=False)
    return path


def mixed_model(path: Path) -> Path:
    """y = x and words = text, of any number each, z = x + one, and none, which never has an element."""
    x, one = parameter("x", ov.Type.f32, [-1, 4]), parameter("one", ov.Type.f32, [1, 4])
    text = parameter("text", ov.Type.string, [-1])
    outputs = {
        "y": op.relu(x),
        "z": op.add(x, one),
        "none": op.slice(one, [0], [0], [1], [0]),
        "words": op.reshape(text, [-1], special_zero=False),
    }
    return save(path, [x, one, text], outputs)


def deep_model(path: Path, layers: int) -> Path:
    """A model that takes about 3 ms a layer to compile, and 150 KB."""
    x = parameter("x", ov.Type.f32, [1, 64, 8, 8])
    weights = np.random.default_rng(1).standard_normal((layers, 64, 64, 3, 3)).astype(np.float32)
    node = x
    for kernel in weights:
        node = op.relu(op.convolution(node, op.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1]))
    return save(path, [x], {"y": node})


def matmul_models(slow: Path, brief: Path) -> None:
    """2 KiB in and out: one that takes about SLOW_S on two cores, and one that takes a twentieth of that.

    What a layer takes is measured here, in CPU time: from 5 to 35 ms (bfloat16 or AVX2) on the machines that were seen.
    """
    layers, x = 12, np.ones((1, 512), np.float32)
    input_, output = _matmuls(layers)
    trial = ov.Core().compile_model(ov.Model([output], [input_], "trial"), "CPU")
    trial(x)
    begin_s = time.process_time()
    trial(x)
    layer_s = (time.process_time() - begin_s) / 2 / layers
    for path, seconds in ((slow, SLOW_S), (brief, SLOW_S / 20)):
        input_, output = _matmuls(max(2, round(seconds / layer_s)))
        save(path, [input_], {"y": output})


def _matmuls(layers: int) -> tuple[Any, Any]:
    x = parameter("x", ov.Type.f32, [1, 512])
    weights = op.constant(np.random.default_rng(1).standard_normal((512, 512)).astype(np.float32) / 16)
    node = op.broadcast(x, op.constant(np.array([8192, 512], np.int64)))
    for _ in range(layers):
        node = op.relu(op.matmul(node, weights, False, False))
    return x, op.reduce_mean(node, op.constant(np.array([0], np.int64)), keep_dims=True)


def kinds_model(path: Path, datatypes: list[str]) -> Path:
    """For each datatype an input x_DATATYPE and an output y_DATATYPE that is it turned upside down: shape [2, 3]."""
    inputs = [parameter(f"x_{kind}", KINDS[kind][0], list(KINDS_SHAPE)) for kind in datatypes]
    indices = op.constant(np.array([1, 0], np.int64))
    axis = op.constant(np.array(0, np.int64))
    outputs = {
        f"y_{kind}": op.gather(node, indices, axis) if kind != "BYTES" else op.reshape(node, [3, 2], special_zero=False)
        for kind, node in zip(datatypes, inputs, strict=True)
    }
    return save(path, inputs, outputs)


def ask_openvino(path: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """OpenVINO's own answer, in this process: tensors by output name."""
    compiled = ov.Core().compile_model(path / "1" / "model.xml", "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    for name, tensor in inputs.items():
        request.set_tensor(name, tensor)
    request.infer()
    return {port.any_name: request.get_tensor(port) for port in compiled.outputs}


def openvino_kinds(path: Path, datatypes: list[str]) -> dict[str, bytes]:
    """OpenVINO's own answer to the inputs of KINDS, raw, by datatype."""
    inputs = {}
    for kind in datatypes:
        element_type, raw = KINDS[kind]
        if kind == "BYTES":
            inputs[f"x_{kind}"] = ov.Tensor(np.array([[b"a", b"", b"\xff\0z"], [b"d", b"e", b"f"]]))
        else:
            words = np.frombuffer(raw, f"u{element_type.size}").copy()
            inputs[f"x_{kind}"] = ov.Tensor(words, list(KINDS_SHAPE), element_type)
    found = ask_openvino(path, inputs)
    numbers = {kind: found[f"y_{kind}"].data.tobytes() for kind in datatypes if kind != "BYTES"}
    return {**numbers, "BYTES": b"".join(len(x).to_bytes(4, "little") + x for x in found["y_BYTES"].bytes_data.ravel())}


def wait_ready(server: Server) -> None:
    def listens() -> bool:
        assert server.process.poll() is None, server.process.communicate()[1]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", server.grpc_port)) == 0

    wait_until(listens)


def wait_until(true: Callable[[], bool]) -> None:
    """Waits for it, for a minute at most."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
