"""Whose processes serve an external address: real sockets of real processes, and tables of /proc as others see them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loadproof.launch import port_owners

LISTEN = """import socket, sys, time
open("/proc/self/comm", "w").write(sys.argv[1])
one = socket.create_server(("127.0.0.1", 0))
print(one.getsockname()[1], flush=True)
time.sleep(60)"""


@contextlib.contextmanager
def listening(name: str) -> Iterator[tuple[int, str]]:
    """A process of that name that listens; its pid, and its address."""
    with subprocess.Popen([sys.executable, "-c", LISTEN, name], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def test_the_process_that_listens_is_found_under_every_name_of_this_machine() -> None:
    with listening("model-server") as (pid, address):
        assert port_owners.pids(address) == [pid]
        assert port_owners.pids(f"localhost:{address.rpartition(':')[2]}") == [pid]


def test_an_ipv6_address_is_told_in_brackets() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert port_owners.pids(f"[::1]:{server.getsockname()[1]}") == [os.getpid()]


@pytest.mark.parametrize("name", ["docker-proxy", "haproxy", "ssh"])
def test_who_only_passes_on_is_not_the_server(name: str) -> None:
    with listening(name) as (_, address):
        assert port_owners.pids(address) is None


@pytest.mark.parametrize("address", ["192.0.2.1:9000", "no-such-host.invalid:9000"])
def test_a_server_of_another_machine_has_no_process_here(address: str) -> None:
    assert port_owners.pids(address) == []


def test_a_port_of_this_machine_where_nobody_is_seen_to_listen_may_be_anybodys() -> None:
    """Docker can forward a port in the kernel: no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert port_owners.pids(address) is None


PORT = 8001
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTENS, ESTABLISHED = "0A", "01"


def recorded(proc: Path, *sockets: tuple[int, str, int], owners: dict[int, list[int]]) -> None:
    """proc/net/tcp (proc_net_tcp: addresses in hex) with (port, state, inode), and whose descriptors these are."""
    rows = [
        f"   {number}: 0100007F:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1"
        for number, (port, state, inode) in enumerate(sockets)
    ]
    (proc / "net").mkdir(parents=True)
    (proc / "net/tcp").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    (proc / "stat").write_text("cpu  1 0 1 1 0 0 0 0 0 0\nbtime 1760000000\n")
    for pid, inodes in owners.items():
        (proc / str(pid) / "fd").mkdir(parents=True)
        (proc / str(pid) / "stat").write_text(f"{pid} (tritonserver) S 1 {pid} {pid} 0 -1{' 0' * 44}\n")
        (proc / str(pid) / "cmdline").write_text("tritonserver\0")
        for number, inode in enumerate(inodes):
            (proc / str(pid) / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"), raising=False)
    return tmp_path / "proc"


def test_all_processes_that_share_the_port_serve_it_and_a_connections_peer_does_not(proc: Path) -> None:
    recorded(
        proc,
        (PORT, LISTENS, 71),
        (PORT, LISTENS, 72),
        (PORT, ESTABLISHED, 73),
        (PORT + 1, LISTENS, 74),
        owners={41: [71], 42: [72], 43: [73, 74]},
    )
    assert port_owners.pids(f"127.0.0.1:{PORT}") == [41, 42]


def test_a_listener_whose_owner_is_hidden_is_not_taken_for_nobody(proc: Path) -> None:
    """Another user's descriptors: a socket in the table, and no process that is seen to have it."""
    recorded(proc, (PORT, LISTENS, 71), (PORT, LISTENS, 72), owners={41: [71]})
    assert port_owners.pids(f"127.0.0.1:{PORT}") is None


def test_a_machine_without_a_table_of_sockets_shows_nobody(proc: Path) -> None:
    proc.mkdir()
    assert port_owners.pids(f"127.0.0.1:{PORT}") is None
