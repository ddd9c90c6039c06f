"""A headless Chromium that a test drives through its DevTools protocol: what the page holds, does and complains of."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


class Page:
    """One tab; `complaints` are the console's errors and warnings, and exceptions that nothing caught."""

    def __init__(self, address: str) -> None:
        self.complaints: list[str] = []
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a DevTools method; events that come meanwhile are looked through for complaints."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params}
        self._socket.send(json.dumps(asked | ({"sessionId": self._session} if self._session else {})))
        while True:
            said = json.loads(self._socket.recv())
            if said.get("id") == self._number:
                assert "error" not in said, said
                return dict(said["result"])
            self._listen(said.get("method"), said.get("params", {}))

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Loads a file and waits until it has."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page, as JSON."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = 60, pause_s: float = 0.05) -> None:
        """Until the condition holds in the page."""
        end = time.monotonic() + timeout_s
        while not self.value(condition):
            assert time.monotonic() < end, f"{condition}: not after {timeout_s} s; complaints: {self.complaints}"
            time.sleep(pause_s)

    def close(self) -> None:
        self._socket.close()

    def _listen(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(params["entry"]))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser without a network, and its one page; skips where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", OFFLINE]
    command = [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            page = Page(_address(profile / "DevToolsActivePort", process))
            try:
                yield page
            finally:
                page.close()
        finally:
            process.terminate()


def _address(told: Path, process: subprocess.Popen[bytes], timeout_s: float = 60) -> str:
    """Where the browser listens: port and path are in a file of its profile once it does."""
    end = time.monotonic() + timeout_s
    while not (told.exists() and len(lines := told.read_text().splitlines()) == 2):
        assert process.poll() is None and time.monotonic() < end, "chromium did not start"
        time.sleep(0.05)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
