"""A REST client through tritonclient (geventhttpclient): binary tensors both ways over kept-alive connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from http.client import HTTPException
from typing import Any

import gevent
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from loadproof_clients.answers import Tensor, pack
from loadproof_clients.load.kserve import arrays
from loadproof_clients.load.transports import Answered, Done, Failure
from loadproof_clients.records import CONNECTION, ID_HEADER, OK, TIMEOUT, UNREADABLE
from loadproof_clients.spec import LoadSpec


def encode_rest(request: Any) -> list[Any]:
    """tritonclient's inputs of one payload, as binary data; they are shared by all clients."""
    return [
        InferInput(name, shape, datatype).set_data_from_numpy(array, binary_data=True)
        for name, shape, datatype, array in arrays(request)
    ]


class RestConnection:
    """One connection of HTTP/1.1, which carries one request at a time (transports.Transport)."""

    def __init__(self, spec: LoadSpec, inputs: Sequence[list[Any]]) -> None:
        self._url = spec.url
        self._model = spec.model
        self._inputs = inputs
        self._timeout_s = spec.load.timeout_s
        self._client = self._open()
        self._greenlet: Any = None
        self._timer: Any = None
        self._aborted = False

    def _open(self) -> Any:
        client = InferenceServerClient(
            self._url, concurrency=1, connection_timeout=self._timeout_s, network_timeout=self._timeout_s
        )
        client._client_stub._connection_pool._is_socket_alive = _is_alive
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

    def infer(self, payload: int, request_id: str) -> Answered:
        # network_timeout is for each read; the whole request needs a timer of its own
        if self._aborted:
            raise Failure(TIMEOUT, "given up before it was sent")
        self._greenlet = gevent.getcurrent()
        self._timer = gevent.Timeout.start_new(self._timeout_s)
        sent_ns = time.monotonic_ns()
        try:
            result = self._client.infer(self._model, self._inputs[payload], headers={ID_HEADER: request_id})
            return Answered(sent_ns, time.monotonic_ns(), result)
        except InferenceServerException as error:
            raise Failure(_status_of(error), str(error)) from None
        except (gevent.Timeout, TimeoutError):
            self._reopen()
            raise Failure(TIMEOUT, f"no whole answer within {self._timeout_s} s") from None
        except OSError as error:
            self._reopen()
            raise Failure(CONNECTION, str(error)) from None
        except HTTPException as error:
            self._reopen()
            raise _failure_of_http(error) from None
        except (ValueError, KeyError, TypeError) as error:  # what tritonclient's decoder raises
            raise Failure(UNREADABLE, f"{type(error).__name__}: {error}") from None
        finally:
            self._timer.close()
            self._timer = None

    def _reopen(self) -> None:
        """A pool whose socket was interrupted may never hand one out again; a new one connects when it is used."""
        self._client.close()
        if not self._aborted:
            self._client = self._open()

    def content(self, result: Any) -> Any:
        return None

    def tensors(self, result: Any) -> list[Tensor]:
        try:
            return read_result(result)
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(UNREADABLE, f"{type(error).__name__}: {error}") from None

    def abort(self) -> None:
        self._aborted = True
        if self._timer is not None:
            gevent.kill(self._greenlet, self._timer)

    def close(self) -> None:
        self._client.close()


class RestClient(RestConnection):
    """A client (transports.OpenTransport): in the open loop it opens further connections while its own are busy.

    They are kept, and the one that was used last is used first, so that as few as possible stay warm.
    """

    def __init__(self, spec: LoadSpec, inputs: Sequence[list[Any]]) -> None:
        super().__init__(spec, inputs)
        self._another: Callable[[], RestConnection] = partial(RestConnection, spec, inputs)
        self._further: list[RestConnection] = []
        self._idle: list[RestConnection] = [self]

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

    def _exchange(self, connection: RestConnection, payload: int, request_id: str, done: Done) -> None:
        sent_ns = time.monotonic_ns()
        status = OK
        try:
            sent_ns, received_ns, result = connection.infer(payload, request_id)
        except Failure as failure:
            received_ns, status, result = time.monotonic_ns(), failure.status, None
        self._idle.append(connection)
        done(sent_ns, received_ns, status, result)

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


def read_result(result: Any) -> list[Tensor]:
    """The outputs as raw bytes; `_buffer` is private, but the public as_numpy decodes what is compared as bytes."""
    tensors, at = [], 0
    for output in result.get_response()["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            raw: bytes | bytearray = pack(output["datatype"], output["data"])
        else:
            raw = result._buffer[at : at + size]
            at += size
        tensors.append(Tensor(output["name"], output["datatype"], tuple(output["shape"]), raw))
    return tensors
