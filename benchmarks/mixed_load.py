"""What the soak asks of a server: good requests, clients' mistakes, cancelled ones, connections that come and go.

The models are `mlp`, inferred on the event loop, and `free`: y = relu(x), any shape of two dimensions, in the engine's
threads. Each kind of request says what it may come to; anything else is a failure.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from loadproof_server.connections.http2 import PREFACE

RIGHT, GONE = "right", "gone"
PATIENCE_S: Final = 30.0
KEPT_MAX: Final = 8  # connections of REST that wait for their next request
LENGTH_HEADER: Final = "Inference-Header-Content-Length"
_SERVICE: Final = "/inference.GRPCInferenceService/"
_OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1),)
_EMPTY_SETTINGS: Final = b"\0\0\0\4\0\0\0\0\0"

Array = Any


class Rest:
    """A connection of HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, method: str, path: str, body: bytes = b"", **headers: object) -> None:
        named = {"Host": "localhost", "Content_Length": len(body), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    async def answer(self) -> tuple[str, dict[str, str], bytes]:
        """Status, headers by lower-case names, body; raises IncompleteReadError where the server closed."""
        async with asyncio.timeout(PATIENCE_S):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            return first.split()[1], headers, await self._reader.readexactly(int(headers["content-length"]))

    async def junk(self, data: bytes) -> str:
        """Sends it and reads whatever comes until the server closes."""
        with suppress(ConnectionError):
            self._writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                while await self._reader.read(1 << 16):
                    pass
        return GONE

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Clients:
    """The connections that stay, and the requests; `answers` are OpenVINO's own to the inputs of `mlp`."""

    def __init__(self, grpc_port: int, rest_port: int, answers: list[tuple[Array, Array]], seed: int) -> None:
        self.grpc_port, self.rest_port, self._answers = grpc_port, rest_port, answers
        self.random, self._numbers = random.Random(seed), np.random.default_rng(seed)
        self.channels = [self.channel() for _ in range(4)]
        self._idle: list[Rest] = []

    def channel(self) -> Any:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}", options=_OWN_CONNECTION)

    def mlp(self) -> tuple[Array, Array]:
        return self.random.choice(self._answers)

    def free(self, rows: int) -> tuple[Array, Array]:
        values = self._numbers.standard_normal((self.random.randint(1, rows), 64), np.float32)
        return values, np.maximum(values, 0)

    def call(self, method: str, message: bytes, channel: Any = None) -> Any:
        return (channel or self.random.choice(self.channels)).unary_unary(_SERVICE + method)(
            message, timeout=PATIENCE_S
        )

    async def ask(
        self, method: str, path: str, body: bytes = b"", **headers: object
    ) -> tuple[str, dict[str, str], bytes]:
        """Over a connection that was kept, and is kept again unless it failed or the server closes it."""
        rest = self._idle.pop() if self._idle else await Rest.open(self.rest_port)
        keep = False
        try:
            rest.send(method, path, body, **headers)
            answer = await rest.answer()
            keep = answer[1].get("connection") != "close" and len(self._idle) < KEPT_MAX
            return answer
        finally:
            if keep:
                self._idle.append(rest)
            else:
                await rest.close()

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()
        for rest in self._idle:
            await rest.close()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: `weight` is its share of all, in parts; `expected` what it may come to."""

    do: Callable[[Clients], Awaitable[str]]
    weight: float
    expected: frozenset[str]

    @property
    def name(self) -> str:
        return self.do.__name__

    @property
    def good(self) -> bool:
        return self.expected == {RIGHT}


KINDS: list[Kind] = []


def kind(weight: float, *expected: str) -> Callable[[Callable[[Clients], Awaitable[str]]], Any]:
    def add(do: Callable[[Clients], Awaitable[str]]) -> Any:
        KINDS.append(Kind(do, weight, frozenset(expected or (RIGHT,))))
        return do

    return add


def verdict(right: bool) -> str:
    return RIGHT if right else "wrong"


def message(model: str, values: Array, *, raw: bytes | None = None) -> bytes:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[values.tobytes() if raw is None else raw])
    request.inputs.add(name="x", datatype="FP32", shape=values.shape)
    return bytes(request.SerializeToString())


def binary(values: Array) -> tuple[bytes, dict[str, object]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": values.shape, "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + values.tobytes(), {LENGTH_HEADER: len(head)}


def text(values: Array) -> bytes:
    data = values.ravel().tolist()
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": values.shape, "data": data}]}).encode()


async def over_grpc(clients: Clients, model: str, sent: Array, expected: Array, channel: Any = None) -> str:
    try:
        answer = pb.ModelInferResponse.FromString(await clients.call("ModelInfer", message(model, sent), channel))
    except grpc.RpcError as error:
        return str(error.code().name)
    return verdict(close_to(np.frombuffer(answer.raw_output_contents[0], np.float32), expected))


async def over_rest(clients: Clients, model: str, sent: Array, expected: Array, **headers: object) -> str:
    body, length = binary(sent)
    status, said, found = await clients.ask("POST", f"/v2/models/{model}/infer", body, **length, **headers)
    if status != "200":
        return status
    return verdict(close_to(np.frombuffer(found[int(said[LENGTH_HEADER.lower()]) :], np.float32), expected))


async def over_json(clients: Clients, model: str, sent: Array, expected: Array) -> str:
    status, _, found = await clients.ask("POST", f"/v2/models/{model}/infer", text(sent))
    return verdict(close_to(np.array(json.loads(found)["outputs"][0]["data"]), expected)) if status == "200" else status


def close_to(found: Array, expected: Array) -> bool:
    return found.size == expected.size and np.allclose(found, expected.ravel(), rtol=1e-4, atol=1e-5)


async def code(call: Any) -> str:
    try:
        await call
    except grpc.RpcError as error:
        return str(error.code().name)
    return RIGHT


# ---- good ----


@kind(25)
async def grpc_infer(clients: Clients) -> str:
    return await over_grpc(clients, "mlp", *clients.mlp())


@kind(5)
async def grpc_any_shape(clients: Clients) -> str:
    return await over_grpc(clients, "free", *clients.free(64))


@kind(0.5)
async def grpc_large(clients: Clients) -> str:
    return await over_grpc(clients, "free", *clients.free(8192))


@kind(2)
async def grpc_metadata(clients: Clients) -> str:
    return await code(clients.call("ModelMetadata", pb.ModelMetadataRequest(name="mlp").SerializeToString()))


@kind(2)
async def grpc_new_connection(clients: Clients) -> str:
    async with clients.channel() as channel:
        return await over_grpc(clients, "mlp", *clients.mlp(), channel)


@kind(20)
async def rest_binary(clients: Clients) -> str:
    return await over_rest(clients, "mlp", *clients.mlp())


@kind(3)
async def rest_json(clients: Clients) -> str:
    return await over_json(clients, "mlp", *clients.mlp())


@kind(0.2)
async def rest_long_json(clients: Clients) -> str:
    """Over 128 KiB of text: it goes through the server's JSON process."""
    values = np.repeat(clients.free(1)[0], 256, axis=0)
    return await over_json(clients, "free", values, np.maximum(values, 0))


@kind(5)
async def rest_any_shape(clients: Clients) -> str:
    return await over_rest(clients, "free", *clients.free(64))


@kind(0.5)
async def rest_large(clients: Clients) -> str:
    return await over_rest(clients, "free", *clients.free(8192))


@kind(2)
async def rest_metadata(clients: Clients) -> str:
    status, _, found = await clients.ask("GET", "/v2/models/mlp")
    return verdict(json.loads(found)["name"] == "mlp") if status == "200" else status


@kind(4)
async def rest_new_connection(clients: Clients) -> str:
    return await over_rest(clients, "mlp", *clients.mlp(), Connection="close")


# ---- mistakes ----


@kind(2, "INVALID_ARGUMENT")
async def grpc_malformed(clients: Clients) -> str:
    return await code(clients.call("ModelInfer", b"\xff" + clients.random.randbytes(40)))


@kind(2, "INVALID_ARGUMENT")
async def grpc_short_tensor(clients: Clients) -> str:
    return await code(clients.call("ModelInfer", message("mlp", clients.mlp()[0], raw=b"\0" * 12)))


@kind(1.5, "NOT_FOUND")
async def grpc_unknown_model(clients: Clients) -> str:
    return await code(clients.call("ModelInfer", message(clients.random.randbytes(6).hex(), clients.mlp()[0])))


@kind(1.5, "UNIMPLEMENTED")
async def grpc_unknown_method(clients: Clients) -> str:
    return await code(clients.call(clients.random.randbytes(6).hex(), b""))


@kind(1.5, GONE)
async def grpc_oversized_frame(clients: Clients) -> str:
    return await junk(clients.grpc_port, PREFACE + _EMPTY_SETTINGS + struct.pack(">I", 1 << 31 | 1) + b"\0" * 60)


@kind(1.5, GONE)
async def grpc_junk(clients: Clients) -> str:
    return await junk(clients.grpc_port, b"\xff" + clients.random.randbytes(60))


@kind(2, "400")
async def rest_malformed(clients: Clients) -> str:
    return (await clients.ask("POST", "/v2/models/mlp/infer", text(clients.mlp()[0])[: clients.random.randint(1, 90)]))[
        0
    ]


@kind(1.5, "404")
async def rest_unknown_model(clients: Clients) -> str:
    return (await clients.ask("POST", f"/v2/models/{clients.random.randbytes(6).hex()}/infer", b"{}"))[0]


@kind(1.5, "413")
async def rest_oversized_body(clients: Clients) -> str:
    return (await clients.ask("POST", "/v2/models/mlp/infer", b"{", Content_Length=1 << 40))[0]


@kind(1.5, "431", GONE)
async def rest_oversized_head(clients: Clients) -> str:
    try:
        return (await clients.ask("GET", "/v2", X_Filler="x" * 1_000_000))[0]
    except (ConnectionError, asyncio.IncompleteReadError):  # it was refused while it was still being sent
        return GONE


@kind(1.5, GONE)
async def rest_junk(clients: Clients) -> str:
    return await junk(clients.rest_port, b"\xff" + clients.random.randbytes(60) + b"\r\n\r\n")


# ---- clients that go away ----


@kind(3, "CANCELLED", RIGHT)
async def grpc_cancelled(clients: Clients) -> str:
    call = clients.call("ModelInfer", message("free", clients.free(1024)[0]))
    await asyncio.sleep(clients.random.uniform(0, 0.003))
    call.cancel()
    try:
        return await code(call)
    except asyncio.CancelledError:
        return "CANCELLED"


@kind(2, GONE)
async def rest_leaves_before_the_answer(clients: Clients) -> str:
    rest = await Rest.open(clients.rest_port)
    body, length = binary(clients.free(1024)[0])
    rest.send("POST", "/v2/models/free/infer", body, **length)
    await asyncio.sleep(clients.random.uniform(0, 0.003))
    await rest.close()
    return GONE


@kind(2, GONE)
async def rest_leaves_in_the_middle(clients: Clients) -> str:
    rest = await Rest.open(clients.rest_port)
    rest.send("POST", "/v2/models/mlp/infer", b"{" * 2000, Content_Length=1 << 20)
    await asyncio.sleep(clients.random.uniform(0, 1))
    await rest.close()
    return GONE


@kind(1.5, GONE)
async def silent_connection(clients: Clients) -> str:
    rest = await Rest.open(clients.random.choice((clients.grpc_port, clients.rest_port)))
    await asyncio.sleep(clients.random.uniform(0, 3))
    await rest.close()
    return GONE


async def junk(port: int, data: bytes) -> str:
    rest = await Rest.open(port)
    try:
        return await rest.junk(data)
    finally:
        await rest.close()


def choose(clients: Clients, kinds: Iterable[Kind] = KINDS) -> Kind:
    """One of them at random, by their weights."""
    listed = list(kinds)
    return clients.random.choices(listed, [each.weight for each in listed])[0]
