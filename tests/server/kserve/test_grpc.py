from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.server.small_models import KINDS, KINDS_SHAPE, Serve, Server, openvino_kinds

TYPED = [kind for kind in KINDS if kind not in ("FP16", "BF16")]


@pytest.fixture
def stub(free: Server) -> Iterator[Any]:
    with grpc.insecure_channel(free.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


def free_request(values: np.ndarray[Any, Any], name: str = "x") -> Any:
    request = pb.ModelInferRequest(model_name="free", raw_input_contents=[values.tobytes()])
    request.inputs.add(name=name, datatype="FP32", shape=values.shape)
    return request


def test_every_datatype_is_answered_raw_with_openvinos_own_bits(kinds: Server, models: dict[str, Path]) -> None:
    request = pb.ModelInferRequest(model_name="kinds", raw_input_contents=[raw for _, raw in KINDS.values()])
    for kind in KINDS:
        request.inputs.add(name=f"x_{kind}", datatype=kind, shape=KINDS_SHAPE)
    with grpc.insecure_channel(kinds.grpc) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(request)
    expected = openvino_kinds(models["kinds"], list(KINDS))
    assert dict(zip(KINDS, response.raw_output_contents, strict=True)) == expected
    assert expected["INT32"] != KINDS["INT32"][1]
    assert [(output.name, output.datatype) for output in response.outputs] == [(f"y_{kind}", kind) for kind in KINDS]


def test_every_datatype_with_typed_contents_is_read_from_its_field(typed: Server, models: dict[str, Path]) -> None:
    request = pb.ModelInferRequest(model_name="typed")
    fields = {"BOOL": "bool", "FP32": "fp32", "FP64": "fp64", "INT64": "int64", "UINT64": "uint64", "BYTES": "bytes"}
    for kind in TYPED:
        tensor = request.inputs.add(name=f"x_{kind}", datatype=kind, shape=KINDS_SHAPE)
        raw = KINDS[kind][1]
        prefix = {"I": "int", "U": "uint"}.get(kind[0], "")
        values = [b"a", b"", b"\xff\0z", b"d", b"e", b"f"]
        if kind != "BYTES":
            values = np.frombuffer(raw, triton.triton_to_np_dtype(kind)).tolist()
        getattr(tensor.contents, f"{fields.get(kind, prefix)}_contents").extend(values)
    with grpc.insecure_channel(typed.grpc) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert dict(zip(TYPED, response.raw_output_contents, strict=True)) == openvino_kinds(models["typed"], TYPED)


def test_tritonclient_sees_health_metadata_and_the_answer(free: Server) -> None:
    with triton.InferenceServerClient(free.grpc) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("free", "1")
        assert client.get_server_metadata().name == "loadproof-server"
        metadata = client.get_model_metadata("free")
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
            ("x", "FP32", [-1, -1])
        ]
        tensor = triton.InferInput("x", [2, 3], "FP32")
        tensor.set_data_from_numpy(np.array([[-1, 2, 3], [4, -5, 6]], np.float32))
        result = client.infer("free", [tensor], request_id="r-7", outputs=[triton.InferRequestedOutput("y")])
        assert result.as_numpy("y").tolist() == [[0, 2, 3], [4, 0, 6]]
        assert (result.get_response().id, result.get_response().model_version) == ("r-7", "1")


def test_only_the_outputs_that_are_asked_for_come_back(kinds: Server) -> None:
    request = pb.ModelInferRequest(model_name="kinds", raw_input_contents=[raw for _, raw in KINDS.values()])
    for kind in KINDS:
        request.inputs.add(name=f"x_{kind}", datatype=kind, shape=KINDS_SHAPE)
    request.outputs.add(name="y_INT8")
    request.outputs.add(name="y_BOOL")
    with grpc.insecure_channel(kinds.grpc) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert [output.name for output in response.outputs] == ["y_INT8", "y_BOOL"]
    assert len(response.raw_output_contents) == 2


def test_16_mib_travel_both_ways(free: Server) -> None:
    values = np.random.default_rng(1).standard_normal((1024, 4096)).astype(np.float32)
    size = 32 << 20
    options = [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
    with grpc.insecure_channel(free.grpc, options=options) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(free_request(values))
    assert response.raw_output_contents[0] == np.maximum(values, 0).tobytes()


def changed(**fields: Any) -> Any:
    request = free_request(np.ones((1, 4), np.float32))
    for name, value in fields.items():
        setattr(request if name.startswith("model") else request.inputs[0], name, value)
    return request


def with_outputs(*names: str) -> Any:
    request = changed()
    for name in names:
        request.outputs.add(name=name)
    return request


def with_shape(*shape: int) -> Any:
    request = changed()
    request.inputs[0].shape[:] = shape
    return request


def typed_and_raw() -> Any:
    request = changed()
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    return request


def typed_only(*values: float) -> Any:
    request = changed()
    request.raw_input_contents[:] = []
    request.inputs[0].contents.fp32_contents.extend(values)
    return request


def twice() -> Any:
    request = changed()
    request.MergeFrom(changed())
    return request


def shared_memory() -> Any:
    request = changed()
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return request


def with_parameter(name: str) -> Any:
    request = with_outputs("y")
    request.outputs[0].parameters[name].int64_param = 2
    return request


def long_name(request: Any) -> Any:
    request.inputs[0].name = "n" * 20_000
    return request


def no_inputs() -> Any:
    return pb.ModelInferRequest(model_name="free")


BAD = [
    (changed(model_name="no"), "NOT_FOUND", "model 'no': unknown; this server has free"),
    (changed(model_version="9"), "NOT_FOUND", "version '9' of model free: unknown; this server has 1"),
    (changed(name="z"), "INVALID_ARGUMENT", "input 'z': unknown; free has x"),
    (changed(datatype="FP64"), "INVALID_ARGUMENT", "input x: datatype must be FP32, not 'FP64'"),
    (changed(datatype="FP33"), "INVALID_ARGUMENT", "not 'FP33', which is no KServe datatype"),
    (with_shape(4), "INVALID_ARGUMENT", "input x: shape must be [-1, -1], not [4]"),
    (with_shape(-1, 4), "INVALID_ARGUMENT", "input x: shape must be [-1, -1], not [-1, 4]"),
    (with_shape(2, 4), "INVALID_ARGUMENT", "input x: 16 bytes for FP32 of shape [2, 4], which takes 32"),
    (with_shape(2**62, 2**62), "INVALID_ARGUMENT", "input x: 16 bytes for FP32 of shape"),
    (with_shape(*[1] * 100), "INVALID_ARGUMENT", "and 84 dimensions more"),
    (with_outputs("z"), "INVALID_ARGUMENT", "output 'z': unknown; free has y"),
    (with_outputs("y", "y"), "INVALID_ARGUMENT", "output y: asked for twice"),
    (typed_and_raw(), "INVALID_ARGUMENT", "input x: has contents beside raw_input_contents"),
    (typed_only(1, 2, 3), "INVALID_ARGUMENT", "input x: 3 values for FP32 of shape [1, 4]"),
    (twice(), "INVALID_ARGUMENT", "input x: given twice"),
    (shared_memory(), "INVALID_ARGUMENT", "input x: shared_memory_region is not supported"),
    (long_name(shared_memory()), "INVALID_ARGUMENT", "n: shared_memory_region is not supported"),
    (long_name(typed_and_raw()), "INVALID_ARGUMENT", "n: has contents beside raw_input_contents"),
    (with_parameter("shared_memory_region"), "INVALID_ARGUMENT", "output y: shared_memory_region is not supported"),
    (with_parameter("classification"), "INVALID_ARGUMENT", "output y: classification is not supported"),
    (no_inputs(), "INVALID_ARGUMENT", "input x: missing"),
]


@pytest.mark.parametrize(("request_", "status", "message"), BAD, ids=[message for _, _, message in BAD])
def test_a_bad_request_is_refused_with_its_field_and_counted_once(
    free: Server, stub: Any, request_: Any, status: str, message: str
) -> None:
    failed = free.metric("ovms_requests_fail", interface="gRPC")
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_)
    assert caught.value.code().name == status
    assert message in caught.value.details()
    assert free.metric("ovms_requests_fail", interface="gRPC") == failed + 1
    assert stub.ModelInfer(changed()).raw_output_contents[0] == np.ones(4, np.float32).tobytes()


def test_more_raw_contents_than_inputs_are_refused(stub: Any) -> None:
    request = changed()
    request.raw_input_contents.append(b"")
    with pytest.raises(grpc.RpcError, match="raw_input_contents: 2 entries for 1 inputs"):
        stub.ModelInfer(request)


def test_a_message_that_is_no_protobuf_is_refused_and_counted(free: Server) -> None:
    failed = free.metric("ovms_requests_fail", interface="gRPC", name="")
    with grpc.insecure_channel(free.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            infer(b"\xff\xff\xff")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/NoSuch")(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert free.metric("ovms_requests_fail", interface="gRPC", name="") == failed + 1


def test_unknown_models_cannot_make_new_series(free: Server, stub: Any) -> None:
    for number in range(3):
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(changed(model_name=f"no-{number}"))
    assert free.metric("ovms_requests_fail", name="no-1") == 0
    assert free.metric("ovms_requests_fail", name="") >= 3


def test_the_model_methods_do_not_know_other_models(stub: Any) -> None:
    for method, request in ((stub.ModelReady, pb.ModelReadyRequest), (stub.ModelMetadata, pb.ModelMetadataRequest)):
        with pytest.raises(grpc.RpcError, match="model 'no': unknown") as caught:
            method(request(name="no"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_bad_requests_in_between_do_not_touch_the_good_ones(free: Server) -> None:
    succeeded = free.metric("ovms_requests_success", interface="gRPC")
    failed = free.metric("ovms_requests_fail", interface="gRPC")

    def client(number: int) -> int:
        good = 0
        with grpc.insecure_channel(free.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = GRPCInferenceServiceStub(channel)
            for turn in range(25):
                values = np.full((3, 5), number * 100 + turn, np.float32)
                good += stub.ModelInfer(free_request(values)).raw_output_contents[0] == values.tobytes()
                with pytest.raises(grpc.RpcError):
                    stub.ModelInfer(with_shape(7, turn))
        return good

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(client, range(8))) == 200
    assert free.metric("ovms_requests_success", interface="gRPC") == succeeded + 200
    assert free.metric("ovms_requests_fail", interface="gRPC") == failed + 200
    assert free.metric("ovms_current_requests") == 0


def test_a_request_that_the_client_cancels_is_counted_as_failed_and_frees_its_infer_request(serve: Serve) -> None:
    server = serve("slow", "--nireq", "1")
    request = pb.ModelInferRequest(model_name="slow", raw_input_contents=[bytes(2048)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 512])
    with grpc.insecure_channel(server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=0.05)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(stub.ModelInfer(request).raw_output_contents[0]) == 2048
    assert server.metric("ovms_requests_fail") == 1
    assert server.metric("ovms_requests_success") == 1
    assert server.metric("ovms_current_requests") == 0


@pytest.mark.parametrize("part", [b"\x2a\x00", b"\x32\x00"], ids=["inputs", "outputs"])
def test_a_protobuf_bomb_is_refused(free: Server, part: bytes) -> None:
    message = pb.ModelInferRequest(model_name="free").SerializeToString() + part * (20 << 20)
    with grpc.insecure_channel(free.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="message: more than 16777216 bytes beside raw tensors") as caught:
            infer(message)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
