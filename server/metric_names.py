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

API: Final = "KServe"
METHOD: Final = "ModelInfer"
GRPC: Final = "gRPC"
REST: Final = "REST"
INTERFACES: Final = (GRPC, REST)

# A request that names no model of the server is counted under name="" and version="": a client cannot make new series.
UNKNOWN_MODEL: Final = ("", "")

BUCKETS_US: Final = tuple(int(10 * 1.8**i) for i in range(33))
