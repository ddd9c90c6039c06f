"""The table of clients beside the rows of the APIs: what a plan may name is there, and nothing else."""

from __future__ import annotations

import pytest

from loadproof_clients import transports
from loadproof_clients.apis import APIS, PROTOCOLS
from loadproof_clients.spec import Load, LoadSpec, Measure
from loadproof_clients.tensors.tensor import Tensor
from loadproof_clients.transport import Client

NAMED = [
    (api, protocol, transport)
    for api, row in APIS.items()
    for protocol, carrier in row.carriers.items()
    for transport in carrier.transports
]


def test_every_transport_that_a_plan_may_name_has_a_class_and_every_api_its_questions() -> None:
    assert sorted(NAMED) == sorted(transports.CLIENTS)
    assert APIS.keys() == transports.METADATA.keys()
    assert {protocol for _, protocol, _ in NAMED} <= PROTOCOLS.keys()


@pytest.mark.parametrize("name", NAMED, ids="-".join)
def test_each_class_encodes_a_payload_and_makes_a_client(name: tuple[str, str, str]) -> None:
    load = Load.model_validate(dict(zip(("api", "protocol", "transport"), name, strict=True)))
    spec = LoadSpec(run="r", url="127.0.0.1:1", model="m", load=load, measure=Measure())
    client: Client = transports.prepare(spec, [[Tensor("x", "FP32", (1,), bytes(4))]])()
    assert client.held == 0 and client.connections in (0, 1)
    client.close()


def test_what_is_left_unset_is_the_apis_default_and_what_does_not_fit_is_refused_by_name() -> None:
    unset = Load()
    assert (unset.api, unset.protocol, unset.transport) == ("kserve", "grpc", "tritonclient")
    assert Load(protocol="rest").transport == "tritonclient"
    for key, value, allowed in (
        ("api", "soap", "allowed: kserve"),
        ("transport", "grpcio", 'load.api = "kserve" over grpc allows: tritonclient, wire'),
    ):
        with pytest.raises(ValueError, match=f'load.{key}: found "{value}"') as refused:
            Load.model_validate({key: value})
        assert allowed in str(refused.value)
