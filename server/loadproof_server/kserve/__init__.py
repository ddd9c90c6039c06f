"""KServe v2 over gRPC and REST, with Triton's extensions and OVMS's configuration API."""
