"""tritonclient's four clients (gRPC, gRPC aio, HTTP, HTTP aio) as its own examples use them, plain and under TLS."""

from __future__ import annotations

import asyncio
import http.client
import inspect
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_sync
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_sync
import tritonclient.http.aio as http_aio
import trustme
from tritonclient.utils import InferenceServerException

from loadproof_server.connections.tls import Tls
from loadproof_server.errors import UsageError
from tests.server.small_models import Serve, Server
from tests.server.test_main import run

KINDS = {"gRPC": grpc_sync, "gRPC aio": grpc_aio, "HTTP": http_sync, "HTTP aio": http_aio}
VALUES = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)


class Client:
    """One of tritonclient's clients; `ask` calls a method of it, and waits where that is a coroutine."""

    def __init__(self, kind: str, server: Server, **options: Any) -> None:
        self.kind, self.module = kind, KINDS[kind]
        self._runner = asyncio.Runner()
        address = server.grpc if kind.startswith("gRPC") else server.rest

        async def make() -> Any:
            return self.module.InferenceServerClient(address.replace("127.0.0.1", "localhost"), **options)

        self.client = self._runner.run(make())

    def ask(self, method: str, *arguments: Any, **more: Any) -> Any:
        async def call() -> Any:
            found = getattr(self.client, method)(*arguments, **more)
            return await found if inspect.isawaitable(found) else found

        return self._runner.run(call())

    def infer(self) -> Any:
        tensor = self.module.InferInput("x", list(VALUES.shape), "FP32")
        tensor.set_data_from_numpy(VALUES)
        outputs = [self.module.InferRequestedOutput("y")]
        return self.ask("infer", "free", [tensor], outputs=outputs, request_id="r-7").as_numpy("y").tolist()

    def json(self, method: str, *arguments: Any) -> Any:
        """The answer as a dictionary, of both protocols."""
        more = {"as_json": True} if self.kind.startswith("gRPC") else {}
        return self.ask(method, *arguments, **more)

    def close(self) -> None:
        self.ask("close")
        self._runner.close()


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, free: Server) -> Iterator[Client]:
    made = Client(request.param, free)
    yield made
    made.close()


def test_health_metadata_and_inference(client: Client) -> None:
    assert client.ask("is_server_live") and client.ask("is_server_ready") and client.ask("is_model_ready", "free", "1")
    assert client.json("get_server_metadata")["name"] == "loadproof-server"
    assert client.json("get_model_metadata", "free")["inputs"][0]["name"] == "x"
    assert client.infer() == [[0, 2, 3], [4, 0, 6]]


def test_configuration_and_index(client: Client) -> None:
    config = client.json("get_model_config", "free")
    config = config.get("config", config)
    assert (config["name"], config["backend"], int(config.get("max_batch_size", 0))) == ("free", "openvino", 0)
    (tensor,) = config["input"]
    assert (tensor["name"], tensor["data_type"], list(map(int, tensor["dims"]))) == ("x", "TYPE_FP32", [-1, -1])
    index = client.json("get_model_repository_index")
    expected = {"name": "free", "version": "1", "state": "READY"}
    assert (index["models"] if isinstance(index, dict) else index) == [expected]


def test_statistics_grow_by_what_was_asked(client: Client) -> None:
    def statistics() -> dict[str, int]:
        found = client.json("get_inference_statistics", "free")["model_stats"][0]
        durations = found["inference_stats"]
        return {
            "inferences": int(found.get("inference_count", 0)),
            "successes": int(durations["success"].get("count", 0)),
            "success_ns": int(durations["success"].get("ns", 0)),
            "infer_ns": int(durations["compute_infer"].get("ns", 0)),
            "queue_ns": int(durations["queue"].get("ns", 0)),
            "failures": int(durations["fail"].get("count", 0)),
            "last_ms": int(found.get("last_inference", 0)),
        }

    client.infer()
    before = statistics()
    for _ in range(3):
        client.infer()
    with pytest.raises(InferenceServerException):
        client.ask("infer", "free", [client.module.InferInput("z", [1], "FP32").set_data_from_numpy(VALUES[0][:1])])
    after = statistics()
    grown = {name: after[name] - before[name] for name in after}
    assert (grown["inferences"], grown["successes"], grown["failures"]) == (3, 3, 1)
    assert grown["success_ns"] > grown["infer_ns"] + grown["queue_ns"] > 0
    assert grown["last_ms"] >= 0


def test_the_extensions_do_not_know_other_models(client: Client) -> None:
    asks: list[Callable[[], Any]] = [
        lambda: client.ask("get_model_config", "no"),
        lambda: client.ask("get_inference_statistics", "no"),
        lambda: client.ask("get_inference_statistics", "free", "9"),
    ]
    for ask in asks:
        with pytest.raises(InferenceServerException, match="unknown; this server has"):
            ask()
    everything = client.json("get_inference_statistics")
    assert [model["name"] for model in everything["model_stats"]] == ["free"]


# ---- TLS ----


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths: the authority, the server's and a client's pair, and a client's pair of another authority."""
    directory = tmp_path_factory.mktemp("tls")
    ours, other = trustme.CA(), trustme.CA()
    found: dict[str, str] = {}
    for name, authority, identity in (
        ("server", ours, "localhost"),
        ("client", ours, "client@loadproof.test"),
        ("stranger", other, "client@loadproof.test"),
    ):
        pair = authority.issue_cert(identity)
        pair.private_key_pem.write_to_path(str(directory / f"{name}.key"))
        pair.cert_chain_pems[0].write_to_path(str(directory / f"{name}.pem"))
        found |= {f"{name} key": str(directory / f"{name}.key"), f"{name}": str(directory / f"{name}.pem")}
    ours.cert_pem.write_to_path(str(directory / "ca.pem"))
    return {**found, "ca": str(directory / "ca.pem")}


@pytest.fixture(scope="module")
def secure(serve: Serve, files: dict[str, str]) -> Server:
    return serve("free", "--ssl_certfile", files["server"], "--ssl_keyfile", files["server key"])


@pytest.fixture(scope="module")
def mutual(serve: Serve, files: dict[str, str]) -> Server:
    pair = ["--ssl_certfile", files["server"], "--ssl_keyfile", files["server key"]]
    return serve("free", *pair, "--ssl_ca_certs", files["ca"])


def connected(kind: str, server: Server, files: dict[str, str], who: str | None = None) -> Client:
    """A client that trusts our authority, with its own pair for mutual TLS."""
    if kind.startswith("gRPC"):
        pair = {"private_key": files[f"{who} key"], "certificate_chain": files[who]} if who else {}
        return Client(kind, server, ssl=True, root_certificates=files["ca"], **pair)
    context = ssl.create_default_context(cafile=files["ca"])
    if who:
        context.load_cert_chain(files[who], files[f"{who} key"])
    if kind == "HTTP":
        return Client(kind, server, ssl=True, ssl_context_factory=lambda: context)
    return Client(kind, server, ssl=True, ssl_context=context)


@pytest.mark.parametrize("kind", KINDS)
def test_tls_is_spoken_by_both_protocols(kind: str, secure: Server, files: dict[str, str]) -> None:
    client = connected(kind, secure, files)
    assert client.infer() == [[0, 2, 3], [4, 0, 6]]
    client.close()


@pytest.mark.parametrize("kind", KINDS)
def test_mutual_tls_takes_our_clients(kind: str, mutual: Server, files: dict[str, str]) -> None:
    client = connected(kind, mutual, files, "client")
    assert client.infer() == [[0, 2, 3], [4, 0, 6]]
    client.close()


@pytest.mark.parametrize("who", [None, "stranger"])
@pytest.mark.parametrize("protocol", ["gRPC", "REST"])
def test_mutual_tls_takes_no_other_clients(mutual: Server, files: dict[str, str], protocol: str, who: Any) -> None:
    if protocol == "gRPC":
        client = connected("gRPC", mutual, files, who)
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            client.infer()
        client.close()
        return
    context = ssl.create_default_context(cafile=files["ca"])
    if who:
        context.load_cert_chain(files[who], files[f"{who} key"])
    connection = http.client.HTTPSConnection("localhost", mutual.rest_port, timeout=30, context=context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connection.request("GET", "/v2/health/live")
        connection.getresponse()
    connection.close()


def test_a_client_without_tls_gets_nothing(secure: Server) -> None:
    with grpc.insecure_channel(secure.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    connection = http.client.HTTPConnection(secure.rest, timeout=30)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connection.request("GET", "/v2/health/live")
        connection.getresponse()
    connection.close()


def test_wrong_files_are_named(tmp_path: Path, files: dict[str, str]) -> None:
    good, key, none = Path(files["server"]), Path(files["server key"]), tmp_path / "none"
    empty = tmp_path / "empty"
    empty.touch()
    for tls, message in (
        (Tls(none, key), "--ssl_certfile: .* cannot be read"),
        (Tls(good, none), "--ssl_keyfile: .* cannot be read"),
        (Tls(good, Path(files["client key"])), "--ssl_certfile, --ssl_keyfile: .* are no certificate and its key"),
        (Tls(empty, key), "--ssl_certfile, --ssl_keyfile: .* are no certificate and its key"),
        (Tls(good, key, empty), "--ssl_ca_certs: .* has no PEM certificate"),
    ):
        with pytest.raises(UsageError, match=message):
            tls.context("h2")
    code, message = run("--model_name", "m", "--model_path", "m", "--port", "1", "--ssl_certfile", "c")
    assert (code, "TLS needs both of them" in message) == (2, True)
