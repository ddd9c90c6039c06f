"""The metric names, labels and histogram buckets of OpenVINO Model Server 2026, as plain constants.

Source: OVMS's `docs/metrics.md` and `src/metric_config.hpp`. Times are in microseconds.
"""

from __future__ import annotations

from typing import Final

STREAMS: Final = "ovms_streams"
CURRENT_REQUESTS: Final = "ovms_current_requests"
REQUESTS_SUCCESS: Final = "ovms_requests_success"
REQUESTS_FAIL: Final = "ovms_requests_fail"
REQUEST_TIME_US: Final = "ovms_request_time_us"
INFERENCE_TIME_US: Final = "ovms_inference_time_us"
WAIT_FOR_INFER_REQ_TIME_US: Final = "ovms_wait_for_infer_req_time_us"
INFER_REQ_QUEUE_SIZE: Final = "ovms_infer_req_queue_size"
INFER_REQ_ACTIVE: Final = "ovms_infer_req_active"

DEFAULT: Final = (
    STREAMS,
    CURRENT_REQUESTS,
    REQUESTS_SUCCESS,
    REQUESTS_FAIL,
    REQUEST_TIME_US,
    INFERENCE_TIME_US,
    WAIT_FOR_INFER_REQ_TIME_US,
)
OPTIONAL: Final = (INFER_REQ_QUEUE_SIZE, INFER_REQ_ACTIVE)
# OVMS counts these for MediaPipe graphs alone, which are not served here: they may be asked for, and stay empty.
OF_GRAPHS: Final = {
    "ovms_current_graphs": "gauge",
    "ovms_requests_accepted": "counter",
    "ovms_requests_rejected": "counter",
    "ovms_responses": "counter",
}
METRICS: Final = (*DEFAULT, *OPTIONAL, *OF_GRAPHS)

API: Final = "KServe"
METHOD: Final = "ModelInfer"
MODEL_METADATA: Final = "ModelMetadata"
MODEL_READY: Final = "ModelReady"
METHODS: Final = (METHOD, MODEL_METADATA, MODEL_READY)
GRPC: Final = "gRPC"
REST: Final = "REST"
INTERFACES: Final = (GRPC, REST)

# A request that names no model of the server is counted under name="" and version="": a client cannot make new series.
UNKNOWN_MODEL: Final = ("", "")

BUCKETS_US: Final = tuple(int(10 * 1.8**i) for i in range(33))
