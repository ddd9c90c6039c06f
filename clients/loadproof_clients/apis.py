"""The APIs that a server may speak, a row each: the names that balancer, witnesses, calibration and report go by.

Plain data. What encodes, sends and reads is in the API's own room, as in `kserve/`; docs/extending.md has the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PROTOCOLS: Final = {"grpc": "gRPC", "rest": "REST"}  # names for people, and `interface` in the server's metrics


@dataclass(frozen=True)
class Carrier:
    """An API over one protocol.

    `transports` can carry it, the default first. `inference_path` is where inferences go: the whole path over gRPC,
    how the path of a POST ends over REST. `backend` is HAProxy's backend that counts them and nothing else.
    `ready_path`: a GET that answers 200 once the server is ready; empty where that is asked otherwise.
    """

    transports: tuple[str, ...]
    inference_path: str
    backend: str
    ready_path: str = ""


@dataclass(frozen=True)
class Questions:
    """Paths at the server's REST address where the controller asks, whatever carries the inferences.

    `{model}` stands for the model's name. All are GETs, except `inference`. Empty: the API has no such question.
    """

    model_ready: str  # answers 200 once the model can be asked, with `ready_text` somewhere in the body
    inference: str  # a POST that the balancer logs, also for a model that the server does not have
    server: str = ""  # JSON with the server's `name` and `version`
    model: str = ""  # JSON that describes the model's inputs and outputs
    ready_text: str = ""


@dataclass(frozen=True)
class Api:
    """`carriers` by protocol, the default first; `metric_labels` are those of inferences in OVMS's metrics."""

    title: str
    carriers: Mapping[str, Carrier]
    questions: Questions
    metric_labels: Mapping[str, str]

    def protocol(self) -> str:
        """The default of `load.protocol`."""
        return next(iter(self.carriers))


APIS: Final[Mapping[str, Api]] = {
    "kserve": Api(
        title="KServe v2",
        carriers={
            "grpc": Carrier(("tritonclient", "wire"), "/inference.GRPCInferenceService/ModelInfer", "grpc_infer"),
            "rest": Carrier(("tritonclient", "wire"), "/infer", "rest_infer", ready_path="/v2/health/ready"),
        },
        questions=Questions(
            model_ready="/v2/models/{model}/ready",
            inference="/v2/models/{model}/infer",
            server="/v2",
            model="/v2/models/{model}",
        ),
        metric_labels={"api": "KServe", "method": "ModelInfer"},
    ),
}
