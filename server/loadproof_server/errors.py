"""What can go wrong, as a tree; each error carries the gRPC status and the HTTP status that a client sees.

ServingError            a request that cannot be answered
├── InvalidRequest      INVALID_ARGUMENT    400   the message names the field
├── NotFound            NOT_FOUND           404   model, version or path
├── WrongMethod         UNIMPLEMENTED       405   a REST path that exists under another HTTP method
├── TooLarge            RESOURCE_EXHAUSTED  413   a body over the limit
├── HeadTooLarge        RESOURCE_EXHAUSTED  431   headers over the limit
├── TooSlow             DEADLINE_EXCEEDED   408   a request that arrives too slowly, or whose deadline has passed
├── Unavailable         UNAVAILABLE         503   more than the server takes at once
├── NotSupported        UNIMPLEMENTED       415   a content encoding
├── ReloadFailed        FAILED_PRECONDITION 412   a configuration or model that cannot be loaded: the old one stays
└── InferenceFailed     INTERNAL            500   OpenVINO refused what was valid
StartError              the server cannot start: exit code 1
├── WorkerDied          one of its processes ended: exit code 1
└── UsageError          wrong flags or configuration file: exit code 2
"""

from __future__ import annotations


class ServingError(Exception):
    """A request that cannot be answered; `str()` is the client's message."""

    grpc_status = 13  # the numbers of gRPC's status codes, so that this module needs no gRPC
    http_status = 500


class InvalidRequest(ServingError):
    grpc_status = 3
    http_status = 400


class NotFound(ServingError):
    grpc_status = 5
    http_status = 404


class WrongMethod(ServingError):
    grpc_status = 12
    http_status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed  # the header Allow that RFC 9110 wants with a 405


class TooLarge(ServingError):
    grpc_status = 8
    http_status = 413


class HeadTooLarge(ServingError):
    grpc_status = 8
    http_status = 431


class TooSlow(ServingError):
    grpc_status = 4
    http_status = 408


class Unavailable(ServingError):
    grpc_status = 14
    http_status = 503


class NotSupported(ServingError):
    grpc_status = 12
    http_status = 415


class ReloadFailed(ServingError):
    grpc_status = 9
    http_status = 412  # what OVMS answers to broken JSON and to a model that does not compile


class InferenceFailed(ServingError):
    grpc_status = 13
    http_status = 500


class StartError(Exception):
    """The server cannot start; `str()` is one line that names the cause and the cure."""

    exit_code = 1


class WorkerDied(StartError):
    pass


class UsageError(StartError):
    exit_code = 2
