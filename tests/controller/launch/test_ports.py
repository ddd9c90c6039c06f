"""Ports: those that are offered differ and are free, one that is taken is reported by its option."""

from __future__ import annotations

import socket

import pytest

from loadproof.errors import LoadproofError
from loadproof.launch.ports import free_ports, refusal, require_free


def test_free_ports_differ_are_free_and_are_those_that_are_accepted() -> None:
    ports = free_ports(20, accept=lambda port: port // 2 % 2 == 0)
    assert len(set(ports)) == 20 and all(port // 2 % 2 == 0 for port in ports)
    for port in ports:
        require_free(port, "--web")


def test_a_port_in_use_is_an_error_with_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            LoadproofError, match=rf"^--web {port}: 127\.0\.0\.1:{port} cannot be had .*; choose a free port"
        ):
            require_free(port, f"--web {port}")


def test_a_refusal_says_why_and_a_listener_has_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert refusal(f"127.0.0.1:{listening.getsockname()[1]}") is None
    assert refusal(f"127.0.0.1:{free_ports(1)[0]}") == "Connection refused"
