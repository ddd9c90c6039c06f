"""HTTP/1.1 of the wire transport, against a peer that a test holds in its hand."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from loadproof_clients.kserve.wire_rest import WireRest
from loadproof_clients.records import CONNECTION, OK, TIMEOUT, UNKNOWN_NS, UNREADABLE
from loadproof_clients.transport import Failure
from loadproof_clients.wire.connection import Answer, Broken, Connection, WireExchange
from loadproof_clients.wire.http1 import Http1
from tests.clients.wire_peer import Peer, RestPeer, Told, connected, rest_client, spec

ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-a: b\r\n\r\nhello",
    "empty": b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n003\r\nllo\r\n0\r\nT: r\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"
    b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
    "error": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 5\r\n\r\nhello",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
}
NOT_HTTP = [
    b"SSH-2.0-OpenSSH\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 2x0 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\n\r\n" * 5000,
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 70_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 70_000,
]


class Notes:
    """A connection's owner that takes notes."""

    def __init__(self) -> None:
        self.ends: list[WireExchange] = []
        self.kept = self.held = 0
        self.answer_bytes_max = 1_000_000

    def ended(self, exchange: WireExchange, received_ns: int) -> None:
        self.ends.append(exchange)

    def place(self, exchange: WireExchange, head: bytes, body: bytes) -> None: ...

    def free(self, connection: Connection) -> None:
        self.kept += 1

    def leaving(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """One end of a pair; the other takes what is sent."""
    mine, other = socket.socketpair()
    mine.setblocking(False)
    with other:
        yield mine


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_may_come_in_any_two_pieces(name: str, sock: socket.socket) -> None:
    whole, notes = ANSWERS[name], Notes()
    connection = Http1(notes, sock)
    for cut in range(1, len(whole)):
        connection.send(exchange := WireExchange(lambda _: None), b"POST / HTTP/1.1\r\nx: y", b"body")
        connection.take(whole[:cut], 1)
        assert len(notes.ends) == cut - 1, whole[:cut]
        connection.take(whole[cut:], 2)
        assert notes.ends[-1] is exchange and notes.kept == len(notes.ends) == cut
        status = {"error": 429, "no content": 204}.get(name, 200)
        body = b"" if name in ("empty", "no content") else b"hello"
        assert (exchange.answer.http_status, exchange.answer.body) == (status, body)
    connection.close()


PIECES = {
    "length": [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n", b"\r\n", b"ab", b"cd", b"ef"],
    "chunked": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
        b"\r\n",
        b"2\r\nab\r\n",
        b"2\r\ncd\r\n",
        b"2\r\nef\r\n",
    ],
}


@pytest.mark.parametrize("name", PIECES)
def test_the_first_byte_and_each_piece_have_their_times(name: str, sock: socket.socket) -> None:
    connection = Http1(Notes(), sock)
    connection.send(exchange := WireExchange(lambda _: None), b"POST / HTTP/1.1\r\nx: y", b"body")
    assert exchange.first_byte_ns == UNKNOWN_NS
    for now_ns, data in enumerate(PIECES[name], 1):
        connection.take(data, now_ns)
    if name == "chunked":
        connection.take(b"0\r\n\r\n", 6)
    assert (exchange.first_byte_ns, exchange.pieces, exchange.piece_ns) == (1, [b"ab", b"cd", b"ef"], [3, 4, 5])
    assert exchange.answer.body == b"abcdef"
    connection.close()


def test_an_answer_without_a_body_has_no_pieces(sock: socket.socket) -> None:
    connection = Http1(Notes(), sock)
    connection.send(exchange := WireExchange(lambda _: None), b"POST / HTTP/1.1\r\nx: y", b"body")
    connection.take(ANSWERS["empty"], 4)
    assert (exchange.first_byte_ns, exchange.pieces, exchange.piece_ns) == (4, [], [])
    connection.close()


@pytest.mark.parametrize("data", NOT_HTTP, ids=lambda data: str(data[:60]))
def test_what_is_not_http_is_told(data: bytes, sock: socket.socket) -> None:
    connection = Http1(Notes(), sock)
    connection.send(WireExchange(lambda _: None), b"POST / HTTP/1.1", b"body")
    with pytest.raises(Broken):
        connection.take(data, 1)
    connection.close()


def test_an_answer_that_is_not_http_is_unreadable_and_the_next_request_goes_over_another_connection() -> None:
    def first(peer: RestPeer) -> None:
        peer.ready()
        peer.request()
        peer.sock.sendall(b"what?\r\n\r\n")
        assert peer.head() == b""

    def second(peer: RestPeer) -> None:
        peer.request()
        peer.answer(b"good")

    with Peer(RestPeer, [first, second]) as peer, connected(rest_client(peer.port)) as client:
        assert client.infer(0, "r.1.0.m").status == UNREADABLE
        assert client.infer(0, "r.1.1.m").answer.body == b"good"
    assert peer.connections == 2


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_connection_that_closes_early_is_a_failure_and_nothing_is_sent_twice(part: bytes) -> None:
    def closing(peer: RestPeer) -> None:
        peer.ready()
        assert peer.request()[1] == b"question"
        peer.sock.sendall(part)

    with Peer(RestPeer, [closing]) as peer, connected(rest_client(peer.port)) as client:
        assert client.infer(0, "r.1.0.m").status == CONNECTION
        assert client.connections == 0
    with pytest.raises(Failure) as caught:
        rest_client(peer.port).connect(5)  # nobody listens any more
    assert caught.value.status == CONNECTION


def test_a_body_without_a_length_ends_with_its_connection_and_a_server_may_close_after_an_answer() -> None:
    def until_close(peer: RestPeer) -> None:
        peer.ready()
        peer.request()
        peer.sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nto the ")
        time.sleep(0.02)
        peer.sock.sendall(b"end")

    def told(peer: RestPeer) -> None:
        peer.request()
        peer.answer(b"the last", "Connection: close")
        assert peer.head() == b""

    def silent(peer: RestPeer) -> None:
        peer.request()
        peer.answer(b"kept for a time")

    with Peer(RestPeer, [until_close, told, silent, silent]) as peer, connected(rest_client(peer.port)) as client:
        bodies = []
        for number in range(4):
            bodies.append(client.infer(0, f"r.1.{number}.m").answer.body)
            with gevent.Timeout(5):
                while client.connections:  # until the server's end is noticed
                    gevent.sleep(0.001)
    assert bodies == [b"to the end", b"the last", b"kept for a time", b"kept for a time"]


@pytest.mark.parametrize(
    "asked", [b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"]
)
def test_bytes_that_nobody_asked_for_end_the_connection(asked: bytes) -> None:
    def chatty(peer: RestPeer) -> None:
        peer.ready()
        peer.request()
        peer.sock.sendall(b"HTTP/1.1 200 OK\r\n" + asked + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
        assert peer.head() == b""

    def second(peer: RestPeer) -> None:
        peer.request()
        peer.answer(b"good")

    with Peer(RestPeer, [chatty, second]) as peer, connected(rest_client(peer.port)) as client:
        assert client.infer(0, "r.1.0.m").answer.body == b"ok"
        assert client.infer(0, "r.1.1.m").answer.body == b"good"


def test_large_bodies_go_both_ways_whole() -> None:
    body = bytes(range(256)) * (1 << 16)

    def echo(peer: RestPeer) -> None:
        peer.ready()
        for number in range(2):
            time.sleep(0.05)  # the socket is full by then
            head, came = peer.request()
            assert head.endswith(b"\r\nx-loadproof-id: r.1.%d.m\r\n\r\n" % number)
            peer.answer(came)

    with Peer(RestPeer, [echo]) as peer, connected(rest_client(peer.port, body)) as client:
        for number in range(2):
            exchange = client.infer(0, f"r.1.{number}.m")
            assert exchange.answer.body == body
            assert exchange.sent_ns < exchange.first_byte_ns <= exchange.received_ns


def test_an_answer_before_all_was_sent_counts_and_the_connection_does_not() -> None:
    read = threading.Event()

    def refuse(peer: RestPeer) -> None:
        peer.ready()
        peer.head()
        peer.sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        read.wait(10)  # what closes with bytes unread resets

    with Peer(RestPeer, [refuse]) as peer, connected(rest_client(peer.port, b"x" * (1 << 25))) as client:
        exchange = client.infer(0, "r.1.0.m")
        read.set()
        assert (exchange.status, client.connections) == (413, 0)


def test_a_request_has_its_time_also_where_bytes_trickle() -> None:
    def trickle(peer: RestPeer) -> None:
        peer.ready()
        peer.request()
        with contextlib.suppress(ConnectionError):
            for _ in range(150):
                peer.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(0.02)

    with Peer(RestPeer, [trickle]) as peer, connected(rest_client(peer.port, timeout_s=0.3)) as client:
        began_s = time.monotonic()
        assert client.infer(0, "r.1.0.m").status == TIMEOUT and 0.29 < time.monotonic() - began_s < 2
        assert client.connections == 0


def test_requests_that_wait_have_connections_of_their_own_and_the_last_used_is_used_first() -> None:
    answered = threading.Event()

    def slow(peer: RestPeer) -> None:
        peer.ready()
        peer.request()
        time.sleep(0.2)
        peer.answer(b"slow")
        answered.set()
        assert peer.head() == b""

    def quick(peer: RestPeer) -> None:
        for _ in range(2):
            peer.request()
            answered.wait(10)
            time.sleep(0.1)
            peer.answer(b"quick")

    with Peer(RestPeer, [slow, quick]) as peer, connected(rest_client(peer.port)) as client:
        told = Told()
        told.start(client, "slow", "quick")
        assert told.wait(2) == {"slow": OK, "quick": OK} and client.connections == 2
        told.start(client, "again")
        assert told.wait(3)["again"] == OK and told.ends["again"].answer.body == b"quick"


def test_who_waits_reads_its_answer_after_others_were_stamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a turn of the loop of its own: a client that takes its time costs the others none of theirs."""
    sent: list[WireExchange] = []
    read_at_once: list[bool] = []
    client = rest_client(1)
    monkeypatch.setattr(client, "_begin", lambda exchange, *_: sent.append(exchange))
    asked = gevent.spawn(client.infer, 0, "r.1.0.m")
    gevent.sleep(0)
    exchange = sent[0]
    exchange.answer = Answer(200, {}, b"now")

    def come() -> None:
        exchange.done(exchange)
        read_at_once.append(asked.ready())

    gevent.get_hub().loop.run_callback(come)
    assert asked.get(timeout=5).answer.body == b"now"
    assert read_at_once == [False]


def test_what_is_given_up_is_told_once() -> None:
    def silent(peer: RestPeer) -> None:
        peer.ready()
        peer.request()
        assert peer.head() == b""

    with Peer(RestPeer, [silent]) as peer, connected(rest_client(peer.port)) as client:
        told = Told()
        told.start(client, "waits")
        client.abort()
        assert told.wait(1) == {"waits": TIMEOUT}
        assert client.infer(0, "late").status == TIMEOUT


def test_a_name_is_met_at_the_first_of_its_addresses_that_takes_a_connection() -> None:
    """`localhost` may be ::1 before it is 127.0.0.1, where the peer listens."""

    def hello(peer: RestPeer) -> None:
        peer.ready()

    with Peer(RestPeer, [hello]) as peer, connected(WireRest(spec("rest", peer.port, host="localhost"), [])):
        pass


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this kernel has no IPv6")
def test_an_address_of_ipv6_is_met() -> None:
    def hello(peer: RestPeer) -> None:
        peer.ready()

    with Peer(RestPeer, [hello], "::1") as peer, connected(WireRest(spec("rest", peer.port, host="[::1]"), [])):
        pass
