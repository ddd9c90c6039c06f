"""A REST client through tritonclient (geventhttpclient): binary tensors both ways over kept-alive connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from http.client import HTTPException
from typing import Any

import gevent
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from loadproof_clients.kserve import bounded_http
from loadproof_clients.kserve.json_tensors import binary_inputs, read_outputs
from loadproof_clients.records import CONNECTION, ID_HEADER, TIMEOUT, UNREADABLE
from loadproof_clients.spec import LoadSpec
from loadproof_clients.tensors.tensor import Tensor, Tensors
from loadproof_clients.transport import Done, Exchange, Failure, reading


class _Connection:
    """One connection of HTTP/1.1, which carries one request at a time."""

    def __init__(self, spec: LoadSpec, inputs: Sequence[list[Any]]) -> None:
        self._url = spec.url
        self._model = spec.model
        self._inputs = inputs
        self._timeout_s, self._bytes_max = spec.load.timeout_s, spec.load.answer_bytes_max
        self._client = self._open()
        self._greenlet: Any = None
        self._timer: Any = None
        self._aborted = False

    def _open(self) -> Any:
        client = InferenceServerClient(
            self._url, concurrency=1, connection_timeout=self._timeout_s, network_timeout=self._timeout_s
        )
        client._client_stub._connection_pool._is_socket_alive = _is_alive
        bounded_http.bound(client, self._bytes_max)
        return client

    def connect(self, timeout_s: float) -> None:
        timer = gevent.Timeout.start_new(timeout_s)
        try:
            if not self._client.is_server_ready():
                raise Failure(503, "the server says that it is not ready")
        except gevent.Timeout:
            raise Failure(TIMEOUT, f"no answer within {timeout_s} s") from None
        except OSError as error:
            raise Failure(CONNECTION, str(error)) from None
        except HTTPException as error:
            raise _failure_of_http(error) from None
        finally:
            timer.close()

    def infer(self, payload: int, request_id: str) -> Exchange:
        exchange = Exchange(time.monotonic_ns())
        try:
            result = self._infer(payload, request_id, exchange)
        except Failure as failure:
            return exchange.failed(time.monotonic_ns(), failure.status, str(failure))
        return exchange.ended(time.monotonic_ns(), result)

    def _infer(self, payload: int, request_id: str, exchange: Exchange) -> Any:
        if self._aborted:
            raise Failure(TIMEOUT, "given up before it was sent")
        self._greenlet = gevent.getcurrent()
        # network_timeout is for each read; the whole request needs a timer of its own
        self._timer = gevent.Timeout.start_new(self._timeout_s)
        exchange.sent_ns = time.monotonic_ns()
        try:
            return self._client.infer(self._model, self._inputs[payload], headers={ID_HEADER: request_id})
        except InferenceServerException as error:
            raise Failure(_status_of(error), str(error)) from None
        except (gevent.Timeout, TimeoutError):
            self._reopen()
            raise Failure(TIMEOUT, f"no whole answer within {self._timeout_s} s") from None
        except Failure:
            self._reopen()
            raise
        except OSError as error:
            self._reopen()
            raise Failure(CONNECTION, str(error)) from None
        except HTTPException as error:
            self._reopen()
            raise _failure_of_http(error) from None
        except Exception as error:  # what tritonclient's decoder raises: see transport.reading
            raise Failure(UNREADABLE, f"{type(error).__name__}: {error}") from None
        finally:
            self._timer.close()
            self._timer = None

    def _reopen(self) -> None:
        """A pool whose socket was interrupted may never hand one out again; a new one connects when it is used."""
        self._client.close()
        if not self._aborted:
            self._client = self._open()

    def content(self, answer: Any) -> Any:
        return None

    def tensors(self, answer: Any) -> list[Tensor]:
        with reading():  # `_buffer` is private, but the public as_numpy decodes what is compared as bytes
            return read_outputs(answer.get_response(), getattr(answer, "_buffer", b""))

    def abort(self) -> None:
        self._aborted = True
        if self._timer is not None:
            gevent.kill(self._greenlet, self._timer)

    def close(self) -> None:
        self._client.close()


class TritonRest(_Connection):
    """A client (transport.Client): in the open loop it opens further connections while its own are busy.

    They are kept, and the one that was used last is used first, so that as few as possible stay warm.
    """

    @classmethod
    def encode(cls, spec: LoadSpec, payload: Tensors) -> list[Any]:
        """tritonclient's inputs, as binary data."""
        return binary_inputs(payload)

    def __init__(self, spec: LoadSpec, encoded: Sequence[list[Any]]) -> None:
        super().__init__(spec, encoded)
        self._another: Callable[[], _Connection] = partial(_Connection, spec, encoded)
        self._further: list[_Connection] = []
        self._idle: list[_Connection] = [self]

    @property
    def connections(self) -> int:
        return 1 + len(self._further)

    @property
    def held(self) -> int:
        return 0

    def start(self, payload: int, request_id: str, done: Done) -> None:
        if not self._idle:
            self._further.append(another := self._another())
            self._idle.append(another)
        gevent.spawn(self._exchange, self._idle.pop(), payload, request_id, done)

    def _exchange(self, connection: _Connection, payload: int, request_id: str, done: Done) -> None:
        exchange = connection.infer(payload, request_id)
        self._idle.append(connection)
        done(exchange)

    def abort(self) -> None:
        super().abort()
        for connection in self._further:
            connection.abort()

    def close(self) -> None:
        super().close()
        for connection in self._further:
            connection.close()


def _is_alive(sock: Any) -> bool:
    """Whether an idle connection can be used again: nothing came, not even its end.

    geventhttpclient asks select(), which knows no descriptor over 1023 and has them all taken for dead: each request of
    a worker with more would open a connection of its own.
    """
    try:
        sock._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _status_of(error: Any) -> int:
    status = str(error.status())
    return int(status) if status.isdigit() else UNREADABLE


def _failure_of_http(error: HTTPException) -> Failure:
    """geventhttpclient says with one class that the server closed too early and that it does not speak HTTP."""
    return Failure(CONNECTION if "closed" in str(error) else UNREADABLE, f"{type(error).__name__}: {error}")
