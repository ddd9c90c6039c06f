"""The balancer's start: what is said of a HAProxy that cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadproof.errors import LoadproofError
from loadproof.launch import balancer
from loadproof.launch.target import Target
from loadproof_clients.apis import APIS


def test_an_old_haproxy_is_one_line_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\necho 'HA-Proxy version 2.2.9-2+deb11u6 2023/12/08'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    target = Target("m", APIS["kserve"], "127.0.0.1:1", "127.0.0.1:2", None)
    with (
        pytest.raises(
            LoadproofError, match=r"is version 2\.2\.9.*; 2\.4 or newer is needed, or --set load\.via=direct"
        ),
        balancer.start(target, tmp_path),
    ):
        pass
