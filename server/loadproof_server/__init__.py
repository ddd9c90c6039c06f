"""The model server: KServe v2 over gRPC and REST on OpenVINO, with OpenVINO Model Server's flags and metrics."""
