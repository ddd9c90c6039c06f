"""The balancer as it runs: HAProxy with our configuration, the collector, and servers that behave or do not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadproof.collect.balancer_log import Tally, read
from loadproof.collect.metrics_text import values
from loadproof.collect.scrape import Scraper
from loadproof.errors import LoadproofError
from loadproof.launch.balancer import check, inference_paths, require_room
from loadproof.launch.component import RemoteComponent
from loadproof.launch.target import Target
from loadproof_clients.apis import APIS, Api, Carrier, Questions
from tests.ports import free_ports

CONFIGURATION = Path(__file__).parent.parent / "haproxy" / "haproxy.cfg"
INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
REST_INFER = "/v2/models/m/versions/1/infer"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
TFS = Api(
    title="another API",
    carriers={
        "grpc": Carrier(("grpcio",), PREDICT, "grpc_infer"),
        "rest": Carrier(("http",), ":predict", "rest_infer", ready_path="/v1/ready"),
    },
    questions=Questions("/v1/models/{model}", "/v1/models/{model}:predict", ready_text="AVAILABLE"),
    metric_labels={},
)
SLOW_S = 0.3
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class RestServer(BaseHTTPRequestHandler):
    """Echoes; `cut` is answered by closing the connection, `slow` late."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: list[bytes]
    asked: list[str] = []  # noqa: RUF012 - of all servers of a test

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self._answer(b"")

    def do_POST(self) -> None:
        body = (
            self._chunks()
            if self.headers.get("transfer-encoding")
            else self.rfile.read(int(self.headers["content-length"]))
        )
        self.seen.append(body)
        if body == b"cut":
            self.close_connection = True
            return
        if body == b"slow":
            time.sleep(SLOW_S)
        self._answer(body)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def infer(request: bytes, _context: grpc.ServicerContext) -> bytes:
    if request == b"slow":
        time.sleep(SLOW_S)
    return request


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """HAProxy's end resets what it kept open."""


class Lab:
    """HAProxy and the collector before servers of this process; `finish` tells what was logged and counted."""

    def __init__(self, directory: Path, server_grpc: str, server_rest: str, **variables: str) -> None:
        self.log = directory / "requests.log"
        self.grpc, self.rest, stats = (f"127.0.0.1:{port}" for port in free_ports(3))
        command = [sys.executable, "-m", "loadproof.collect.log_collector", "--out", str(self.log)]
        self.collector = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.collector.stdout
        port = self.collector.stdout.readline().split(":")[1].strip(" }\n")
        environment = {
            **os.environ,
            "GRPC_BIND": self.grpc,
            "REST_BIND": self.rest,
            "STATS_BIND": stats,
            "SERVER_GRPC": server_grpc,
            "SERVER_REST": server_rest,
            "LOG_TARGET": f"127.0.0.1:{port}",
            **variables,
        }
        self.said = directory / "haproxy.log"
        with self.said.open("wb") as said:
            self.haproxy = subprocess.Popen(["haproxy", "-db", "-f", str(CONFIGURATION)], env=environment, stderr=said)
        self.metrics_url = f"http://{stats}/metrics"
        self.scraper = Scraper({"balancer": self.metrics_url})
        wait_until(lambda: self.scraper.scrape()["balancer"] is not None)

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.grpc, options=[("grpc.use_local_subchannel_pool", 1), *UNLIMITED])

    def ask_grpc(self, channel: grpc.Channel, body: bytes, name: str, path: str = INFER) -> bytes:
        answer: bytes = channel.unary_unary(path)(body, metadata=[("x-loadproof-id", name)], timeout=60)
        return answer

    def connection(self) -> HTTPConnection:
        host, port = self.rest.split(":")
        return HTTPConnection(host, int(port), timeout=60)

    def ask_rest(
        self, connection: HTTPConnection, body: bytes, path: str = REST_INFER, **headers: str
    ) -> tuple[int, bytes]:
        connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def counted(self, name: str, backend: str) -> float:
        """The counter of HAProxy's backend, once it stands still."""
        assert self.scraper.until_agreed()
        samples = self.scraper.scrape()["balancer"] or {}
        return sum(values(samples, f"haproxy_backend_{name}", proxy=backend))

    def finish(self) -> tuple[list[dict[str, Any]], Tally]:
        """The rows of the request log, and its tally; the collector ends."""
        assert self.scraper.until_agreed()
        self.collector.send_signal(signal.SIGTERM)
        assert self.collector.wait(timeout=30) == 0
        table, tally = read(self.log)
        return table.to_pylist(), tally

    def close(self) -> None:
        for process in (self.haproxy, self.collector):
            process.kill()
            process.wait()
        assert self.collector.stdout
        self.collector.stdout.close()


Start = Callable[..., Lab]
Rest = tuple[str, list[bytes]]  # its address, and the bodies it has seen


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(server_grpc: str = "", server_rest: str = "", **variables: str) -> Lab:
            lab = Lab(tmp_path, server_grpc, server_rest, **variables)
            stack.callback(lab.close)
            return lab

        yield start


@pytest.fixture
def rest_server() -> Iterator[Rest]:
    seen: list[bytes] = []
    server = QuietServer(("127.0.0.1", 0), type("Handler", (RestServer,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def grpc_server() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(32), options=UNLIMITED)
    methods = {name: grpc.unary_unary_rpc_method_handler(infer) for name in ("ModelInfer", "ServerLive")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    predict = {"Predict": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", predict),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_client_log_and_counters_agree_over_grpc(start: Start, grpc_server: str) -> None:
    lab = start(server_grpc=grpc_server)
    before_us = time.time() * 1e6
    with lab.channel() as channel:
        for number in range(50):
            assert lab.ask_grpc(channel, b"tensor", f"r1.1.{number}.m") == b"tensor"
        lab.ask_grpc(channel, b"", "not-an-inference", LIVE)
    after_us = time.time() * 1e6

    assert lab.counted("http_requests_total", "grpc_infer") == lab.counted("sessions_total", "grpc_infer") == 50
    assert lab.counted("http_requests_total", "grpc_other") == 1
    rows, tally = lab.finish()
    assert tally == Tally(rows=50)
    assert [row["id"] for row in rows] == [f"r1.1.{number}.m" for number in range(50)]
    for row in rows:
        assert (row["status"], row["termination"], row["retries"], row["queue_ms"]) == (200, "--", 0, 0)
        # HAProxy's clock is that of its event loop's last wake-up, which a loaded machine may hold back.
        assert before_us - 1e6 <= row["accepted_us"] <= row["headers_us"] <= row["end_us"] <= after_us + 1e6


def test_client_log_and_counters_agree_over_rest(start: Start, rest_server: Rest) -> None:
    address, seen = rest_server
    lab = start(server_rest=address)
    connection = lab.connection()
    for number in range(50):
        assert lab.ask_rest(connection, b"tensor", x_loadproof_id=f"r1.1.{number}.m") == (200, b"tensor")
    connection.request("GET", "/v2/models/m")
    connection.getresponse().read()
    connection.close()

    assert lab.counted("http_requests_total", "rest_infer") == lab.counted("sessions_total", "rest_infer") == 50
    assert len(seen) == 50
    rows, tally = lab.finish()
    assert tally == Tally(rows=50)
    assert [row["id"] for row in rows] == [f"r1.1.{number}.m" for number in range(50)]
    assert all(row["accepted_us"] <= row["headers_us"] <= row["end_us"] for row in rows)


def test_rest_takes_http2_with_prior_knowledge_on_the_same_port(start: Start, rest_server: Rest) -> None:
    address, seen = rest_server
    lab = start(server_rest=address)
    # A gRPC channel is the HTTP/2 client at hand; that it finds no gRPC in the answer is of no interest.
    with grpc.insecure_channel(lab.rest) as channel, pytest.raises(grpc.RpcError):
        lab.ask_grpc(channel, b"tensor", "h2", REST_INFER)
    assert [body[5:] for body in seen] == [b"tensor"]
    rows, _ = lab.finish()
    assert [(row["id"], row["status"]) for row in rows] == [("h2", 200)]


def test_each_client_has_one_backend_connection_which_its_streams_share(
    start: Start, grpc_server: str, rest_server: Rest
) -> None:
    lab = start(grpc_server, rest_server[0])
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(lab.connection())) for _ in range(8)]
        for connection in connections * 3:
            lab.ask_rest(connection, b"x")
        channels = [stack.enter_context(lab.channel()) for _ in range(8)]
        for channel in channels * 3:
            lab.ask_grpc(channel, b"x", "alone")
        at_once = [channel.unary_unary(INFER).future(b"slow", timeout=60) for channel in channels for _ in range(4)]
        for answer in at_once:
            answer.result()
        assert lab.counted("connection_attempts_total", "rest_infer") == 8
        assert lab.counted("connection_attempts_total", "grpc_infer") == 8
        assert lab.counted("http_requests_total", "grpc_infer") == 24 + 32


def test_sixteen_mebibytes_pass_both_ways(start: Start, grpc_server: str, rest_server: Rest) -> None:
    lab = start(grpc_server, rest_server[0])
    body = os.urandom(1 << 20) * 16
    with lab.channel() as channel:
        assert lab.ask_grpc(channel, body, "g") == body
    with contextlib.closing(lab.connection()) as connection:
        assert lab.ask_rest(connection, body, x_loadproof_id="r") == (200, body)
    rows, _ = lab.finish()
    assert {row["id"]: row["termination"] for row in rows} == {"g": "--", "r": "--"}


def test_a_slow_answer_is_the_servers_time(start: Start, grpc_server: str, rest_server: Rest) -> None:
    lab = start(grpc_server, rest_server[0])
    with lab.channel() as channel:
        lab.ask_grpc(channel, b"slow", "g")
    with contextlib.closing(lab.connection()) as connection:
        lab.ask_rest(connection, b"slow", x_loadproof_id="r")
    rows, _ = lab.finish()
    assert sorted(row["id"] for row in rows) == ["g", "r"]
    assert all(row["headers_us"] - row["accepted_us"] > SLOW_S * 0.9e6 for row in rows)


def test_a_server_that_closes_without_an_answer_is_asked_once(start: Start, rest_server: Rest) -> None:
    address, seen = rest_server
    lab = start(server_rest=address)
    with contextlib.closing(lab.connection()) as connection:
        assert lab.ask_rest(connection, b"cut", x_loadproof_id="cut")[0] == 502
    assert seen == [b"cut"]
    rows, _ = lab.finish()
    assert [(row["id"], row["status"], row["termination"], row["headers_us"]) for row in rows] == [
        ("cut", 502, "SH", None)
    ]


def test_a_request_cut_on_a_kept_connection_is_counted_but_has_no_line(start: Start, rest_server: Rest) -> None:
    address, seen = rest_server
    lab = start(server_rest=address)
    connection = lab.connection()
    lab.ask_rest(connection, b"x", x_loadproof_id="good")
    with pytest.raises(RemoteDisconnected):
        lab.ask_rest(connection, b"cut", x_loadproof_id="cut")
    connection.close()
    assert seen == [b"x", b"cut"]
    assert lab.counted("sessions_total", "rest_infer") == 2
    assert lab.counted("http_requests_total", "rest_infer") == 1
    rows, _ = lab.finish()
    assert [row["id"] for row in rows] == ["good"]


def test_without_a_ready_server_the_balancer_answers_503_on_both_protocols(start: Start, grpc_server: str) -> None:
    (port,) = free_ports(1)
    lab = start(grpc_server, f"127.0.0.1:{port}")
    wait_until(lambda: all(f"{name}_infer/server is DOWN" in lab.said.read_text() for name in ("grpc", "rest")))
    with contextlib.closing(lab.connection()) as connection:
        assert lab.ask_rest(connection, b"x", x_loadproof_id="rest")[0] == 503
    with lab.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        lab.ask_grpc(channel, b"x", "grpc")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    rows, _ = lab.finish()
    expected = {"status": 503, "termination": "SC", "server": "<NOSRV>", "headers_us": None}
    assert [row["id"] for row in rows] == ["rest", "grpc"]
    assert all(expected.items() <= row.items() for row in rows)


def test_a_refused_connection_is_not_tried_again(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        lab = start(server_rest=f"127.0.0.1:{server.getsockname()[1]}", HEALTH="tcp")
        server.settimeout(30)
        with contextlib.closing(lab.connection()) as first:
            first.request("POST", REST_INFER, b"x")
            server.accept()[0].close()
    with contextlib.closing(lab.connection()) as connection:
        assert lab.ask_rest(connection, b"x", x_loadproof_id="refused")[0] == 503
    assert lab.counted("retry_warnings_total", "rest_infer") == 0
    row = lab.finish()[0][-1]
    assert (row["id"], row["status"], row["retries"]) == ("refused", 503, 0)


def test_more_clients_than_it_takes_are_one_line_with_the_cure(start: Start) -> None:
    lab = start()
    require_room(lab.metrics_url, 8)
    with pytest.raises(
        LoadproofError, match=r"load.clients = 40000, but HAProxy takes only \d+ connections: .*ulimit -n"
    ):
        require_room(lab.metrics_url, 40_000)


def test_an_id_is_bounded_and_cannot_break_the_line(start: Start, rest_server: Rest) -> None:
    lab = start(server_rest=rest_server[0])
    with contextlib.closing(lab.connection()) as connection:
        for headers in ({"x_loadproof_id": "a b\t\"'é"}, {"x_loadproof_id": "x" * 500}, {}):
            assert lab.ask_rest(connection, b"x", **headers)[0] == 200
    rows, tally = lab.finish()
    assert tally == Tally(rows=3)
    assert [row["id"] for row in rows] == ["a%20b%09%22%27%E9", "x" * 96, ""]


def test_a_request_that_cannot_be_read_is_no_row(start: Start, rest_server: Rest) -> None:
    lab = start(server_rest=rest_server[0])
    host, port = lab.rest.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as probe:
        probe.sendall(f"POST {REST_INFER} HTTP/1.1\r\nnot a header\r\n\r\n".encode())
        assert b"400" in probe.recv(1000)
    with socket.create_connection((host, int(port)), timeout=30):
        pass  # a probe of the port leaves no trace
    rows, tally = lab.finish()
    assert (rows, tally) == ([], Tally(unread=1))


def test_a_collector_that_stops_delays_no_request_and_loses_no_line(start: Start, rest_server: Rest) -> None:
    lab = start(server_rest=rest_server[0])
    lab.collector.send_signal(signal.SIGSTOP)
    connection = lab.connection()
    for number in range(500):
        assert lab.ask_rest(connection, b"x", x_loadproof_id=str(number))[0] == 200
    connection.close()
    lab.collector.send_signal(signal.SIGCONT)
    rows, tally = lab.finish()
    assert tally == Tally(rows=500)
    assert [row["id"] for row in rows] == [str(number) for number in range(500)]


def test_another_api_s_inferences_are_logged_and_counted_and_nothing_else(
    start: Start, grpc_server: str, rest_server: Rest
) -> None:
    target = Target("m", TFS, grpc_server, rest_server[0], None, RemoteComponent("the server", rest_server[0]))
    lab = start(grpc_server, rest_server[0], **check(target), **inference_paths(TFS))
    with lab.channel() as channel, contextlib.closing(lab.connection()) as connection:
        assert lab.ask_grpc(channel, b"x", "g", PREDICT) == b"x"
        lab.ask_grpc(channel, b"x", "kserve's", INFER)
        assert lab.ask_rest(connection, b"x", "/v1/models/m/versions/1:predict", x_loadproof_id="r")[0] == 200
        assert lab.ask_rest(connection, b"x", "/v1/models/m", x_loadproof_id="other")[0] == 200
        assert lab.ask_rest(connection, b"x", REST_INFER, x_loadproof_id="kserve's")[0] == 200
    for protocol, others in (("grpc", 1), ("rest", 2)):
        assert lab.counted("http_requests_total", TFS.carriers[protocol].backend) == 1
        assert lab.counted("http_requests_total", f"{protocol}_other") == others
    wait_until(lambda: "/v1/ready" in RestServer.asked)
    rows, tally = lab.finish()
    assert (sorted(row["id"] for row in rows), tally) == (["g", "r"], Tally(rows=2))


def test_a_stack_s_haproxy_can_log_the_inferences_of_several_apis(start: Start, rest_server: Rest) -> None:
    lab = start(server_rest=rest_server[0], REST_INFERENCE="/infer :predict")
    with contextlib.closing(lab.connection()) as connection:
        for path in (REST_INFER, "/v1/models/m:predict", "/v1/models/m"):
            assert lab.ask_rest(connection, b"x", path, x_loadproof_id=path)[0] == 200
    rows, _ = lab.finish()
    assert [row["id"] for row in rows] == [REST_INFER.replace("/", "%2F"), "%2Fv1%2Fmodels%2Fm%3Apredict"]


def test_the_defaults_of_the_configuration_and_its_backends_are_those_of_kserve_s_row() -> None:
    text = CONFIGURATION.read_text()
    for protocol, carrier in APIS["kserve"].carriers.items():
        assert f'"${{{protocol.upper()}_INFERENCE[*]-{carrier.inference_path}}}"' in text
        assert carrier.ready_path in text
    for carrier in (carrier for api in APIS.values() for carrier in api.carriers.values()):
        assert f"\nbackend {carrier.backend} from inference\n" in text


@pytest.mark.parametrize("absent", [("SERVER_GRPC", "GRPC_BIND"), ("SERVER_REST", "REST_BIND"), ("HEALTH",), ()])
def test_the_configuration_is_valid_without_a_warning(absent: tuple[str, ...]) -> None:
    given = {name: "127.0.0.1:1" for name in ("GRPC_BIND", "REST_BIND", "STATS_BIND", "SERVER_GRPC", "SERVER_REST")}
    given |= {"LOG_TARGET": "127.0.0.1:1", "HEALTH": "tcp", "PATH": os.environ["PATH"]}
    for environment in (
        {name: value for name, value in given.items() if name not in absent},
        {name: "" if name in absent else value for name, value in given.items()},
    ):
        command = ["haproxy", "-c", "-f", str(CONFIGURATION)]
        checked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr
