"""The truth server's REST side: HTTP/1.1 by hand, with the binary tensor extension, so that answers can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import json

from loadproof_server.dataplane.metrics import CONTENT_TYPE
from tests.truth.house import FLOATS, ID_HEADER, MODEL, House, double

LENGTH = "inference-header-content-length"
REASONS = {200: "OK", 404: "Not Found", 429: "Too Many Requests"}


class RestSide:
    """One call a connection; requests on it come one after the other."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the client left
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
                if headers.get("expect") == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if method == "POST" and path.endswith("/infer"):
                    await self._infer(headers, body, writer)
                else:
                    writer.write(self._other(path))
        writer.close()

    async def _infer(self, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        length = int(headers[LENGTH])
        host, port = writer.get_extra_info("peername")[:2]
        visit = self._house.arrive(headers.get(ID_HEADER, ""), "rest", f"ipv4:{host}:{port}", body[length:])
        await self._house.serve(visit)
        answer = _answer(body, length, visit.did)
        self._house.leave(visit)
        if visit.did == "drop":
            answer = b""
        elif visit.did == "cut":
            answer = answer[:-10]
        writer.write(answer)
        if visit.did in ("drop", "cut"):
            writer.close()

    def _other(self, path: str) -> bytes:
        if path == "/metrics":
            return _message(200, self._house.metrics.render(), {"Content-Type": CONTENT_TYPE})
        if path == f"/v2/models/{MODEL}":
            tensors = {
                key: [{"name": name, "datatype": "FP32", "shape": [-1, FLOATS]}]
                for key, name in (("inputs", "x"), ("outputs", "y"))
            }
            return _message(200, json.dumps({"name": MODEL, "versions": ["1"], **tensors}).encode())
        known = path.startswith("/v2/health/") or path == f"/v2/models/{MODEL}/ready"
        return _message(200 if known else 404, b"{}")


def _answer(body: bytes, length: int, deed: str) -> bytes:
    if deed == "error":
        return _message(429, b'{"error": "told to fail"}')
    if deed == "garbage":
        return _message(200, b"this is not JSON")
    x = json.loads(body[:length])["inputs"][0]
    raw = double(body[length:], deed)
    y = {"name": "y", "datatype": x["datatype"], "shape": x["shape"], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"model_name": MODEL, "outputs": [y]}).encode()
    return _message(200, head + raw, {"Inference-Header-Content-Length": str(len(head))})


def _message(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {REASONS[status]}\r\n{head}\r\n".encode() + body


async def start(house: House, host: str, port: int) -> tuple[asyncio.Server, int]:
    """The started server and its port."""
    server = await asyncio.start_server(RestSide(house), host, port, limit=1 << 20, backlog=4096)
    return server, int(server.sockets[0].getsockname()[1])
