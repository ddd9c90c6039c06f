"""HTTP/2 of the wire transport, against a peer that a test holds in its hand, and against gRPC's own server."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import gevent
import grpc
import pytest

from loadproof_clients.records import CONNECTION, GRPC_CODES, OK, TIMEOUT, TOO_LARGE, UNREADABLE
from loadproof_clients.wire import frames
from loadproof_clients.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    frame,
)
from loadproof_clients.wire.grpc import frame as message
from tests.clients.wire_peer import OK_HEAD, OK_TRAILERS, GrpcPeer, Peer, Told, answer, connected, grpc_client

LAST = END_HEADERS | END_STREAM
BODY = message(b"an answer")
# Frames of one good answer on stream 3, in every dress that is allowed.
ANSWERS = {
    "plain": answer(3, BODY),
    "padded": frame(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 3, b"\3" + b"\0\0\0\0\7" + OK_HEAD + b"\0" * 3)
    + frame(DATA, PADDED, 3, b"\2" + BODY[:4] + b"\0\0")
    + frame(DATA, 0, 3)
    + frame(DATA, 0, 3, BODY[4:])
    + frame(HEADERS, LAST, 3, OK_TRAILERS),
    "continued": frame(HEADERS, 0, 3, OK_HEAD[:3])
    + frame(CONTINUATION, 0, 3, OK_HEAD[3:5])
    + frame(CONTINUATION, END_HEADERS, 3, OK_HEAD[5:])
    + frame(DATA, 0, 3, BODY)
    + frame(HEADERS, END_STREAM, 3)
    + frame(CONTINUATION, END_HEADERS, 3, OK_TRAILERS),
    "between others": frame(SETTINGS, 0, 0)
    + frame(77, 0, 0, b"unknown")
    + frame(frames.PRIORITY, 0, 3, b"\0" * 5)
    + answer(3, BODY)
    + frame(RST_STREAM, 0, 3, b"\0\0\0\0"),
    "after 1xx": frame(HEADERS, END_HEADERS, 3, frames.literal(b":status", b"103")) + answer(3, BODY),
}
MALFORMED = {
    "not HTTP/2": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "too large": b"\0\x40\1" + frame(DATA, 0, 3)[3:],
    "unknown stream": frame(DATA, 0, 5, b"x"),
    "even stream": frame(HEADERS, LAST, 2, OK_HEAD),
    "bad header": frame(HEADERS, LAST, 3, b"\xff\xff\xff\xff\x0f"),
    "padding": frame(DATA, PADDED, 3, b"\5xx"),
    "no padding": frame(DATA, PADDED, 3),
    "broken off block": frame(HEADERS, 0, 3, OK_HEAD) + frame(DATA, 0, 3, b"x"),
    "continuation": frame(CONTINUATION, END_HEADERS, 3, OK_HEAD),
    "endless headers": frame(HEADERS, 0, 3, OK_HEAD) + frame(CONTINUATION, 0, 3, b"x" * 16_000) * 5,
    "push": frame(PUSH_PROMISE, END_HEADERS, 3, b"\0\0\0\2" + OK_HEAD),
    "settings": frame(SETTINGS, 0, 0, b"\0\3\0"),
    "frame size": frames.settings({frames.MAX_FRAME_SIZE: 5}),
    "window size": frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}),
    "ping": frame(PING, 0, 0, b"1234"),
    "window": frame(WINDOW_UPDATE, 0, 0, b"\0\0"),
    "no more window": frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
    "window overflow": frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
    "goaway": frame(GOAWAY, 0, 0, b"\0\0"),
    "reset": frame(RST_STREAM, 0, 3, b"\0"),
    "status of many digits": frame(HEADERS, END_HEADERS, 3, frames.literal(b":status", b"2" * 5000)),
    "interim answers without an end": frame(HEADERS, END_HEADERS, 3, frames.literal(b":status", b"103")) * 1000,
    "pings whose answers are not read": frame(PING, 0, 0, bytes(8)) * 1_000_000,
    "settings whose answers are not read": frame(SETTINGS, 0, 0) * 1_000_000,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_same_in_every_dress_and_in_any_pieces(name: str) -> None:
    def dressed(peer: GrpcPeer) -> None:
        peer.ready()
        peer.request()
        for at in range(len(ANSWERS[name])):  # byte by byte
            peer.sock.sendall(ANSWERS[name][at : at + 1])
        stream, _ = peer.request()
        peer.answer(stream, BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [dressed]) as peer, connected(grpc_client(peer.port)) as client:
        first, second = client.infer(0, "r.1.0.m").answer, client.infer(0, "r.1.1.m").answer
        assert first == second and (first.http_status, first.body) == (200, BODY)


def test_the_first_byte_and_each_piece_have_their_times() -> None:
    def slowly(peer: GrpcPeer) -> None:
        peer.ready()
        stream, _ = peer.request()
        for part in (
            frame(HEADERS, END_HEADERS, stream, OK_HEAD),
            frame(DATA, 0, stream, BODY[:4]),
            frame(DATA, 0, stream, BODY[4:]),
            frame(HEADERS, END_HEADERS | END_STREAM, stream, OK_TRAILERS),
        ):
            time.sleep(0.02)
            peer.sock.sendall(part)
        assert peer.ended()

    with Peer(GrpcPeer, [slowly]) as peer, connected(grpc_client(peer.port)) as client:
        exchange = client.infer(0, "r.1.0.m")
        assert exchange.pieces == [BODY[:4], BODY[4:]] and exchange.answer.body == BODY
        times_ns = [exchange.sent_ns, exchange.first_byte_ns, *exchange.piece_ns, exchange.received_ns]
        assert all(later - earlier > 10_000_000 for earlier, later in pairwise(times_ns))


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_http2_is_unreadable_and_the_next_request_goes_over_another_connection(name: str) -> None:
    def broken(peer: GrpcPeer) -> None:
        peer.ready()
        peer.request()
        with contextlib.suppress(ConnectionError):  # the client may hang up on what is long
            peer.sock.sendall(MALFORMED[name])
        assert peer.ended()

    with Peer(GrpcPeer, [broken, one_request]) as peer, connected(grpc_client(peer.port)) as client:
        assert client.infer(0, "r.1.0.m").status == UNREADABLE
        assert client.infer(0, "r.1.1.m").answer.body == BODY


def test_what_came_before_a_malformed_frame_is_told() -> None:
    def broken(peer: GrpcPeer) -> None:
        peer.ready()
        streams = [peer.request()[0] for _ in range(2)]
        peer.sock.sendall(answer(streams[0], BODY) + MALFORMED["push"])
        assert peer.ended()

    with Peer(GrpcPeer, [broken]) as peer, connected(grpc_client(peer.port)) as client:
        told = Told()
        told.start(client, "a", "b")
        assert told.wait(2) == {"a": OK, "b": UNREADABLE}


@pytest.mark.parametrize("payload", [b"", b"xy", bytes(16_000)], ids=["empty", "tiny", "full"])
def test_a_stream_over_the_bound_is_reset_and_the_others_go_on(payload: bytes) -> None:
    """However little of the frames is the answer: each costs the client memory."""

    def flood(peer: GrpcPeer) -> None:
        peer.ready()
        first, second = (peer.request()[0] for _ in range(2))
        peer.sock.sendall(frame(HEADERS, END_HEADERS, first, OK_HEAD))
        for _ in range(2_000_000 // (64 + len(payload)) // 100 + 1):
            peer.sock.sendall(frame(DATA, 0, first, payload) * 100)
        assert peer.until(RST_STREAM)[1] == first
        peer.answer(second, BODY)

    with Peer(GrpcPeer, [flood]) as peer, connected(grpc_client(peer.port)) as client:
        client.answer_bytes_max = 1_000_000
        next(iter(client._open))._bytes_max = 1_000_000  # type: ignore[attr-defined]
        told = Told()
        told.start(client, "a", "b")
        assert told.wait(2) == {"a": TOO_LARGE, "b": OK}
        assert told.ends["a"].message == "the answer is over load.max_answer_mb = 1"


def test_a_grpc_status_of_many_digits_is_unknown() -> None:
    def digits(peer: GrpcPeer) -> None:
        peer.ready()
        stream, _ = peer.request()
        peer.sock.sendall(frame(HEADERS, LAST, stream, b"\x88" + frames.literal(b"grpc-status", b"9" * 5000)))

    with Peer(GrpcPeer, [digits]) as peer, connected(grpc_client(peer.port)) as client:
        assert client.infer(0, "r.1.0.m").status == GRPC_CODES["UNKNOWN"]


def test_a_status_alone_is_an_answer() -> None:
    def refuse(peer: GrpcPeer) -> None:
        peer.ready()
        stream, _ = peer.request()
        status = frames.literal(b"grpc-status", b"8") + frames.literal(b"grpc-message", b"no%20more")
        peer.sock.sendall(frame(HEADERS, LAST, stream, b"\x88" + status))
        assert peer.ended()

    with Peer(GrpcPeer, [refuse]) as peer, connected(grpc_client(peer.port)) as client:
        failed = client.infer(0, "r.1.0.m")
        assert "no more" in failed.message
        assert failed.status == GRPC_CODES["RESOURCE_EXHAUSTED"]


def test_answers_come_in_any_order_and_those_of_one_reading_have_one_time() -> None:
    def turned(peer: GrpcPeer) -> None:
        peer.ready()
        streams = [peer.request()[0] for _ in range(3)]
        peer.sock.sendall(b"".join(answer(stream, message(bytes([stream]))) for stream in reversed(streams)))
        assert peer.ended()

    with Peer(GrpcPeer, [turned]) as peer, connected(grpc_client(peer.port)) as client:
        told = Told()
        told.start(client, "a", "b", "c")
        assert set(told.wait(3).values()) == {OK}
        assert [told.ends[name].answer.body[5] for name in "abc"] == [3, 5, 7]
        assert len({end.received_ns for end in told.ends.values()}) == 1
        assert client.connections == 1


def test_no_byte_more_than_the_windows_allow_is_sent() -> None:
    """Windows of 10 bytes, then more, less (a window may be negative), and at last enough; frames of 16 KiB at most."""
    body = message(bytes(range(250)) * 400)

    def narrow(peer: GrpcPeer) -> None:
        peer.settings({frames.INITIAL_WINDOW_SIZE: 10})
        peer.ready()
        peer.until(SETTINGS)
        _, stream, _ = peer.until(HEADERS)
        assert peer.until(DATA)[2] == body[:10]
        peer.sock.sendall(frame(WINDOW_UPDATE, 0, stream, (5).to_bytes(4, "big")))
        assert peer.until(DATA)[2] == body[10:15]
        peer.settings({frames.INITIAL_WINDOW_SIZE: 20})
        assert peer.until(DATA)[2] == body[15:25]
        peer.settings({frames.INITIAL_WINDOW_SIZE: 0})
        peer.sock.sendall(frame(WINDOW_UPDATE, 0, stream, (20).to_bytes(4, "big")))
        peer.sock.sendall(frame(WINDOW_UPDATE, 0, stream, (20_007).to_bytes(4, "big")))
        came = body[:25]
        for size in (16_384, 20_007 - 16_384):
            piece = peer.until(DATA)[2]
            assert len(piece) == size
            came += piece
        peer.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20, frames.MAX_FRAME_SIZE: 1 << 15})
        # The connection's own window: 65,535 bytes, less the question's 5.
        while len(came) < 65_530:
            came += peer.until(DATA)[2]
        peer.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.until(DATA)
        assert len(came) == 65_530
        peer.sock.settimeout(8)
        peer.sock.sendall(frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
        flags, _, piece = _rest(peer)
        assert flags & END_STREAM and came + piece == body
        peer.answer(stream, BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [narrow]) as peer, connected(grpc_client(peer.port, body)) as client:
        gevent.sleep(0.02)  # until the settings came
        assert client.infer(0, "r.1.0.m").answer.body == BODY


def _rest(peer: GrpcPeer) -> tuple[int, int, bytes]:
    whole = b""
    while True:
        flags, stream, piece = peer.until(DATA)
        whole += piece
        if flags & END_STREAM:
            return flags, stream, whole


def test_a_small_request_overtakes_a_large_one_that_waits_for_its_window() -> None:
    large, small = message(b"x" * 100_000), message(b"?")

    def narrow(peer: GrpcPeer) -> None:
        peer.ready()
        peer.sock.sendall(frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
        _, stream, _ = peer.until(HEADERS)
        came = b""
        while len(came) < frames.DEFAULT_WINDOW:
            came += peer.until(DATA)[2]
        other, body = peer.request()
        assert body == small
        peer.answer(other, BODY)
        peer.sock.sendall(frame(WINDOW_UPDATE, 0, stream, (1 << 20).to_bytes(4, "big")))
        assert came + _rest(peer)[2] == large
        peer.answer(stream, BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [narrow]) as peer, connected(grpc_client(peer.port, large)) as client:
        told = Told()
        gevent.sleep(0.02)
        told.start(client, "large")
        client._messages = [client._messages[0]._replace(body=small)]
        told.start(client, "small")
        assert told.wait(2) == {"small": OK, "large": OK} and list(told.ends) == ["small", "large"]


def test_an_answer_before_all_was_sent_resets_the_stream_and_keeps_the_connection() -> None:
    def early(peer: GrpcPeer) -> None:
        peer.ready()
        _, stream, _ = peer.until(HEADERS)
        peer.answer(stream, BODY)
        assert peer.until(RST_STREAM)[1] == stream
        assert peer.ended()

    with Peer(GrpcPeer, [early]) as peer, connected(grpc_client(peer.port, message(b"x" * 100_000))) as client:
        assert client.infer(0, "r.1.0.m").answer.body == BODY
        assert client.connections == 1


def test_over_the_limit_of_streams_a_request_waits_and_its_time_runs() -> None:
    def one_by_one(peer: GrpcPeer) -> None:
        peer.settings({frames.MAX_CONCURRENT_STREAMS: 1})
        peer.ready()
        stream, _ = peer.request()
        peer.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.until(HEADERS)
        peer.sock.settimeout(8)
        peer.answer(stream, BODY)
        stream, _ = peer.request()  # is reset at its time's end
        assert peer.until(RST_STREAM)[1] == stream
        with pytest.raises(EOFError):
            peer.until(HEADERS)  # the third has never left

    with Peer(GrpcPeer, [one_by_one]) as peer, connected(grpc_client(peer.port, timeout_s=0.6)) as client:
        gevent.sleep(0.02)
        told = Told()
        told.start(client, "a", "b", "c")
        assert told.wait(3) == {"a": OK, "b": TIMEOUT, "c": TIMEOUT}
        waited_ns = [end.received_ns - end.sent_ns for end in told.ends.values()]
        assert client.held == 2
        assert max(waited_ns[:1]) > 90_000_000 and min(waited_ns[1:]) > 590_000_000


def one_request(peer: GrpcPeer) -> None:
    """A connection that is opened for a request, without the question that a client begins with."""
    stream, _ = peer.request()
    peer.answer(stream, BODY)
    assert peer.ended()


def test_a_server_that_goes_away_answers_what_it_took_and_the_next_request_goes_elsewhere() -> None:
    def leaving(peer: GrpcPeer) -> None:
        peer.ready()
        streams = [peer.request()[0] for _ in range(2)]
        peer.sock.sendall(frame(GOAWAY, 0, 0, streams[0].to_bytes(4, "big") + b"\0\0\0\0bye"))
        time.sleep(0.1)
        peer.answer(streams[0], BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [leaving, one_request]) as peer, connected(grpc_client(peer.port)) as client:
        told = Told()
        told.start(client, "taken", "refused")
        assert told.wait(1) == {"refused": CONNECTION}
        told.start(client, "next")
        assert told.wait(3) == {"refused": CONNECTION, "next": OK, "taken": OK}
        assert client.connections == 1


def test_what_waits_for_a_stream_when_the_server_goes_away_is_sent_elsewhere() -> None:
    def leaving(peer: GrpcPeer) -> None:
        peer.settings({frames.MAX_CONCURRENT_STREAMS: 1})
        peer.ready()
        stream, _ = peer.request()
        peer.sock.sendall(frame(GOAWAY, 0, 0, frames.STREAM_MAX.to_bytes(4, "big") + bytes(4)))
        peer.answer(stream, BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [leaving, one_request]) as peer, connected(grpc_client(peer.port)) as client:
        told = Told()
        told.start(client, "sent", "waits")
        assert told.wait(2) == {"sent": OK, "waits": OK}


def test_a_new_connection_opens_no_flood_of_streams_before_the_server_told_its_limit() -> None:
    def slow_to_greet(peer: GrpcPeer) -> None:
        peer.ready()
        streams = [peer.request()[0] for _ in range(frames.UNMET_STREAMS)]
        peer.settings({})
        streams += [peer.request()[0] for _ in range(20)]
        for stream in streams:
            peer.answer(stream, BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [slow_to_greet]) as peer, connected(grpc_client(peer.port)) as client:
        told = Told()
        told.start(client, *map(str, range(frames.UNMET_STREAMS + 20)))
        assert client.held == 20
        assert set(told.wait(frames.UNMET_STREAMS + 20).values()) == {OK}


def test_a_reset_stream_is_a_failure_and_its_connection_goes_on() -> None:
    def resetting(peer: GrpcPeer) -> None:
        peer.ready()
        stream, _ = peer.request()
        peer.sock.sendall(frame(RST_STREAM, 0, stream, b"\0\0\0\7"))
        stream, _ = peer.request()
        peer.answer(stream, BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [resetting]) as peer, connected(grpc_client(peer.port)) as client:
        failed = client.infer(0, "r.1.0.m")
        assert "error 7" in failed.message
        assert failed.status == CONNECTION
        assert client.infer(0, "r.1.1.m").answer.body == BODY


def test_a_connection_that_closes_fails_all_that_is_under_way_and_nothing_is_sent_twice() -> None:
    def closing(peer: GrpcPeer) -> None:
        peer.ready()
        for _ in range(3):
            peer.request()

    with Peer(GrpcPeer, [closing]) as peer, connected(grpc_client(peer.port)) as client:
        told = Told()
        told.start(client, "a", "b", "c")
        assert told.wait(3) == dict.fromkeys("abc", CONNECTION)
        assert client.connections == 0


def test_what_is_given_up_is_reset_and_an_answer_that_comes_late_is_passed_over() -> None:
    def late(peer: GrpcPeer) -> None:
        peer.ready()
        stream, _ = peer.request()
        assert peer.until(RST_STREAM) == (0, stream, frames.CANCEL.to_bytes(4, "big"))
        peer.answer(stream, BODY)
        stream, _ = peer.request()
        peer.answer(stream, BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [late]) as peer, connected(grpc_client(peer.port, timeout_s=0.3)) as client:
        assert client.infer(0, "r.1.0.m").status == TIMEOUT
        assert client.infer(0, "r.1.1.m").answer.body == BODY


def test_pings_and_settings_are_acknowledged() -> None:
    acknowledged = threading.Event()

    def asking(peer: GrpcPeer) -> None:
        peer.ready()
        peer.sock.sendall(frame(PING, 0, 0, b"12345678"))
        assert peer.until(PING) == (ACK, 0, b"12345678")
        peer.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20})
        assert peer.until(SETTINGS) == (ACK, 0, b"")
        acknowledged.set()
        stream, _ = peer.request()
        peer.answer(stream, BODY)
        assert peer.ended()

    with Peer(GrpcPeer, [asking]) as peer, connected(grpc_client(peer.port)) as client:
        with gevent.Timeout(10):
            while not acknowledged.is_set():
                gevent.sleep(0.01)
        assert client.infer(0, "r.1.0.m").answer.body == BODY


def test_grpcs_own_server_takes_and_gives_sixteen_mebibytes() -> None:
    options = [("grpc.max_receive_message_length", 1 << 25), ("grpc.max_send_message_length", 1 << 25)]
    server = grpc.server(ThreadPoolExecutor(2), options=options)
    handlers = {
        "ServerReady": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\1"),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    body = message(bytes(range(256)) * (1 << 16))
    with connected(grpc_client(port, body, timeout_s=20)) as client:
        for number in range(3):
            assert client.infer(0, f"r.1.{number}.m").answer.body == body
        assert client.connections == 1
    server.stop(0).wait()
