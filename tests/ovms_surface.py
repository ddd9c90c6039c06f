"""A server with the surface of OpenVINO Model Server and nothing else: `loadproof-server` behind a filter.

`python -m tests.ovms_surface --refused FILE FLAGS...` takes OVMS's flags. What is not OVMS's (a flag, a key of
config.json, a gRPC method, a path, a metric or one of its labels) is refused as if it did not exist, and named in FILE.
Source: OVMS's docs (parameters.md, model_server_grpc_api_kfs.md, model_server_rest_api_kfs.md, metrics.md).
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import grpc

from tests.ports import free_ports

FLAGS: Final = {
    *("model_name", "model_path", "shape", "batch_size", "layout", "mean", "scale", "color_format", "precision"),
    *("model_version_policy", "plugin_config", "nireq", "target_device", "metrics_enable", "metrics_list"),
    *("config_path", "port", "rest_port", "grpc_bind_address", "rest_bind_address", "grpc_workers", "rest_workers"),
    *("file_system_poll_wait_seconds", "cache_dir", "log_level", "log_path"),
}
MODEL_KEYS: Final = {
    *("name", "base_path", "batch_size", "model_version_policy", "shape", "layout", "nireq", "target_device"),
    "plugin_config",
}
METHODS: Final = {
    f"/inference.GRPCInferenceService/{name}"
    for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
}
_MODEL: Final = r"/v2/models/[^/]+(/versions/\d+)?"
ROUTES: Final = (
    ("GET", r"/v2|/v2/health/(live|ready)|/v1/config|/metrics"),
    ("GET", rf"{_MODEL}(/ready)?"),
    ("POST", rf"{_MODEL}/infer|/v1/config/reload"),
)
HEADERS: Final = ("Content-Type", "Content-Length", "Inference-Header-Content-Length")
LABELS: Final = {
    "ovms_streams": {"name", "version"},
    "ovms_current_requests": {"name", "version"},
    "ovms_requests_success": {"api", "interface", "method", "name", "version"},
    "ovms_requests_fail": {"api", "interface", "method", "name", "version"},
    "ovms_request_time_us": {"interface", "name", "version", "le"},
    "ovms_inference_time_us": {"name", "version", "le"},
    "ovms_wait_for_infer_req_time_us": {"name", "version", "le"},
    "ovms_infer_req_queue_size": {"name", "version"},
    "ovms_infer_req_active": {"name", "version"},
}


class Surface:
    """What is refused goes into a file, a line each."""

    def __init__(self, refused: Path, config: Path | None) -> None:
        self._refused, self._config = refused, config
        self._lock = threading.Lock()
        refused.touch()

    def refuse(self, what: str) -> None:
        with self._lock, self._refused.open("a") as file:
            file.write(what + "\n")

    def check_config(self) -> None:
        if self._config is None:
            return
        content = json.loads(self._config.read_text())
        for key in content.keys() - {"model_config_list", "monitoring"}:
            self.refuse(f"config.json: {key}")
        if content.get("monitoring", {"metrics": {"enable": True}}).keys() != {"metrics"}:
            self.refuse("config.json: monitoring")
        for entry in content["model_config_list"]:
            for key in entry["config"].keys() - MODEL_KEYS:
                self.refuse(f"config.json: config.{key}")

    def metrics(self, page: str) -> Iterator[str]:
        """The lines of OVMS's page; what else stands there is not served, whoever might ask for it."""
        for line in page.splitlines():
            found = re.match(r"(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? ", line)
            if found and found[1] in LABELS:
                labels = set(re.findall(r'(\w+)="', found[2] or ""))
                if labels <= LABELS[found[1]]:
                    yield line


def rest(surface: Surface, address: tuple[str, int], behind: int) -> ThreadingHTTPServer:
    """OVMS's REST paths and headers before the server's port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not any(self.command == method and re.fullmatch(route, path) for method, route in ROUTES):
                surface.refuse(f"{self.command} {self.path}")
                self._answer(404, {}, b"")
                return
            if path == "/v1/config/reload":
                surface.check_config()
            headers = {name: self.headers[name] for name in HEADERS if name in self.headers}
            request = urllib.request.Request(
                f"http://127.0.0.1:{behind}{path}",
                body if self.command == "POST" else None,
                headers,
                method=self.command,
            )
            try:
                with urllib.request.urlopen(request) as answer:
                    content = answer.read()
                    if path == "/metrics":
                        content = "".join(line + "\n" for line in surface.metrics(content.decode())).encode()
                    self._answer(answer.status, answer.headers, content)
            except urllib.error.HTTPError as error:
                with error:
                    self._answer(error.code, error.headers, error.read())

        def _answer(self, status: int, headers: Any, content: bytes) -> None:
            self.send_response_only(status)
            for name in HEADERS:
                if name in headers and name != "Content-Length":
                    self.send_header(name, headers[name])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = _pass

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    return server


class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """OVMS's gRPC methods before the server's channel; bytes pass as they are."""

    def __init__(self, surface: Surface, channel: Any) -> None:
        self._surface, self._channel = surface, channel

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method not in METHODS:
            self._surface.refuse(method)
            return None  # UNIMPLEMENTED
        ask = self._channel.unary_unary(method)

        def answer(request: bytes, context: Any) -> bytes:
            try:
                found: bytes = ask(request, timeout=60)
                return found
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
                raise

        return grpc.unary_unary_rpc_method_handler(answer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refused", type=Path, required=True)
    own, flags = parser.parse_known_args()
    known = argparse.ArgumentParser(allow_abbrev=False)
    for name in FLAGS:
        known.add_argument(f"--{name}", nargs="?", const="true")
    given, unknown = known.parse_known_args(flags)
    surface = Surface(own.refused, Path(given.config_path) if given.config_path else None)
    for flag in unknown:
        surface.refuse(flag)
    grpc_port, rest_port = free_ports(2)
    values = {**vars(given), "port": str(grpc_port), "rest_port": str(rest_port)}
    values |= {"grpc_bind_address": "127.0.0.1", "rest_bind_address": "127.0.0.1"}
    command = [sys.executable, "-m", "loadproof_server.main"]
    for name, value in values.items():
        command += [f"--{name}", value] if value is not None else []
    behind = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: behind.terminate())
    channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}", options=[("grpc.max_receive_message_length", -1)])
    front = grpc.server(
        futures.ThreadPoolExecutor(16), (Methods(surface, channel),), options=[("grpc.max_receive_message_length", -1)]
    )
    grpc.channel_ready_future(channel).result(timeout=60)
    front.add_insecure_port(f"{given.grpc_bind_address or '0.0.0.0'}:{given.port}")
    front.start()
    pages = rest(surface, (given.rest_bind_address or "0.0.0.0", int(given.rest_port)), rest_port)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    code = behind.wait()
    front.stop(None)
    time.sleep(0.1)
    return code


if __name__ == "__main__":
    sys.exit(main())
