"""The model server: KServe v2 over gRPC and REST on OpenVINO, with the command line and metrics of OpenVINO Model Server."""
